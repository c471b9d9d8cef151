// Keep the end of the page in sight while it grows, until the reader scrolls away; then offer the way back.

const NEAR = 96;

export class Scrolling {
  #isFollowing = true;
  #last = 0;

  constructor(button) {
    this.button = button;
    addEventListener("scroll", () => this.#scrolled(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
    this.#last = scrollY;
  }

  // The page has grown.
  grown() {
    if (this.#isFollowing) this.#jump();
    else this.button.hidden = false;
  }

  toEnd() {
    this.#isFollowing = true;
    this.#jump();
    this.button.hidden = true;
  }

  #jump() {
    scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    this.#last = scrollY;
  }

  #scrolled() {
    const isNear = document.documentElement.scrollHeight - innerHeight - scrollY < NEAR;
    if (scrollY < this.#last - 2 && !isNear) this.#isFollowing = false;
    if (isNear) {
      this.#isFollowing = true;
      this.button.hidden = true;
    }
    this.#last = scrollY;
  }
}

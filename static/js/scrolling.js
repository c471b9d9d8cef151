// Keep the end of the transcript in sight while it grows, until the reader turns back; then offer the way to it.
// The first upward wheel, finger or key lets go: a stream that pulls the page down again would win every time.
// Only the reader takes it up again, by scrolling down to the end or by the button.

const REACHED = 24; // pixels from the end that count as there
const PEEK = 72; // what is shown of a form that is part of the page, so that one sees it goes on
const UP_KEYS = new Set(["ArrowUp", "PageUp", "Home"]);

export class Scrolling {
  #isFollowing = true;
  #last = scrollY;
  #finger = null; // where the finger was last, while it is down
  #owes = false; // whether the page has grown under it

  constructor(button, transcript, foot) {
    this.button = button;
    this.transcript = transcript;
    this.foot = foot;
    addEventListener("scroll", () => this.#scrolled(), { passive: true });
    addEventListener("wheel", (event) => this.#wheeled(event), { passive: true });
    addEventListener("keydown", (event) => this.#pressed(event));
    addEventListener("touchstart", (event) => this.#touched(event), { passive: true });
    addEventListener("touchmove", (event) => this.#dragged(event), { passive: true });
    for (const type of ["touchend", "touchcancel"]) addEventListener(type, (event) => this.#lifted(event));
    button.addEventListener("click", () => this.toEnd());
  }

  // The page has grown. Under a finger it stays where it is.
  grown() {
    if (!this.#isFollowing) this.button.hidden = this.#left() <= REACHED;
    else if (this.#finger === null) this.#jump(Math.max(0, this.#left()));
    else this.#owes = true;
  }

  // Up to it as well: a form that is part of the page may have been scrolled to, past what is asked next.
  toEnd() {
    this.#isFollowing = true;
    this.#jump(this.#left());
    this.button.hidden = true;
  }

  #jump(pixels) {
    this.#owes = false;
    scrollTo({ top: scrollY + pixels, behavior: "instant" });
    this.#last = scrollY;
  }

  // How far the end of the transcript lies below what is seen; never further than the page goes.
  #left() {
    const isOver = getComputedStyle(this.foot).position === "sticky";
    const end = this.transcript.getBoundingClientRect().bottom + (isOver ? this.foot.offsetHeight : PEEK);
    return Math.min(end - innerHeight, document.documentElement.scrollHeight - innerHeight - scrollY);
  }

  #letGo() {
    if (scrollY > 0) this.#isFollowing = false;
  }

  #wheeled(event) {
    if (event.deltaY < 0 && !event.ctrlKey && !scrollsItself(event.target)) this.#letGo();
  }

  #pressed(event) {
    if (UP_KEYS.has(event.key) && !event.target.matches("input, textarea, select")) this.#letGo();
  }

  #touched({ touches }) {
    this.#finger = touches[0].clientY;
  }

  #dragged({ touches, target }) {
    if (touches.length === 1 && touches[0].clientY > this.#finger && !scrollsItself(target)) this.#letGo();
    this.#finger = touches[0].clientY;
  }

  #lifted({ touches }) {
    if (touches.length) return;
    this.#finger = null;
    if (this.#isFollowing && this.#owes) this.#jump(Math.max(0, this.#left()));
  }

  // Further up than the end can have moved by itself: by the scroll bar, say. Down to the end: taken up again.
  #scrolled() {
    const left = this.#left();
    if (scrollY < this.#last - 2 && left > REACHED) this.#letGo();
    if (scrollY > this.#last && left <= REACHED) {
      this.#isFollowing = true;
      this.button.hidden = true;
    }
    this.#last = scrollY;
  }
}

// Whether an upward scroll over `element` moves a box of its own first, such as a long message.
function scrollsItself(element) {
  for (let box = element; box && box !== document.body; box = box.parentElement) {
    if (box.scrollTop > 0 && box !== document.documentElement) return true;
  }
  return false;
}

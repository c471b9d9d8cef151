// Where a list goes on, the link is replaced by what follows: who stands on it stands on the first of that then.

let before = null; // what comes before that link, while somebody stands on it

document.addEventListener("htmx:beforeSwap", ({ detail: { target } }) => {
  const isLeft = target.id === "more" && target.contains(document.activeElement);
  before = isLeft ? target.previousElementSibling : null;
});

document.addEventListener("htmx:afterSwap", () => {
  for (let next = before?.nextElementSibling; next; next = next.nextElementSibling) {
    const link = next.querySelector("a[href]");
    if (!link) continue;
    link.focus();
    break;
  }
  before = null;
});

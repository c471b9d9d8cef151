// Where a list goes on, the link is replaced by what follows: who stands on it stands on the first of that then. What does
// not come is told in its place, until something comes.

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

for (const failed of ["htmx:responseError", "htmx:sendError"]) document.addEventListener(failed, tell);

function tell({ detail: { target } }) {
  const place = { results: target, "picker-list": target, more: target.querySelector("a")?.parentElement }[target.id];
  if (!place) return;
  for (const old of place.querySelectorAll("[role=alert], :scope > .soft")) old.remove();
  const told = document.createElement("p");
  told.className = "notice bad";
  told.role = "alert";
  told.textContent = "The site did not answer. Try again in a moment.";
  place.prepend(told);
}

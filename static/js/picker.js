// The choice of an adapter, in a dialog that finds as one types. Its list comes when it opens; arrows walk through it.

import "./more.js";

const dialog = document.getElementById("picker");
const form = dialog.querySelector(".picker-form");

dialog.querySelector('[data-closes="picker"]').addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", walk);
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});

export function wirePicker(mayOpen, chosen) {
  for (const link of document.querySelectorAll('[data-opens="picker"]')) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      if (mayOpen()) openPicker(link);
    });
  }
  dialog.addEventListener("click", (event) => {
    if (event.target.closest(".pick")) chosen();
  });
}

export function openPicker(link) {
  aim(link);
  dialog.showModal();
  form.dispatchEvent(new Event("opened"));
}

// What is chosen stands in for the column whose link has opened the dialog.
function aim(link) {
  const section = link.closest("[data-position]");
  if (section && form.elements.position) form.elements.position.value = section.dataset.position;
}

function walk(event) {
  if (event.target.matches("select")) return;
  const stops = [form.elements.q, ...dialog.querySelectorAll(".picks a")];
  const at = stops.indexOf(event.target);
  const ends = at > 0 && { Home: 1, End: stops.length - 1 }; // in words they move the caret
  const next = stops[{ ArrowDown: at + 1, ArrowUp: at - 1, ...ends }[event.key]];
  if (!next) return;
  event.preventDefault();
  next.focus();
}

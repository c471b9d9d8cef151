// The box that asks whichever adapter fits: its words go with the visitor, and the chat sends them when it opens.
// An address alone never sends anything: it could have been anybody's.

const KEY = "ask-the-land";

const form = document.getElementById("ask");

form?.elements.text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

form?.addEventListener("submit", (event) => {
  const text = event.target.elements.text.value;
  if (!text.trim()) return event.preventDefault();
  try {
    sessionStorage.setItem(KEY, text);
  } catch {} // it is kept from us: the words stand in the address, to be sent by hand
});

// The words that the box left for the page that opens now, once.
export function left() {
  try {
    const text = sessionStorage.getItem(KEY) ?? "";
    sessionStorage.removeItem(KEY);
    return text;
  } catch {
    return "";
  }
}

// Copy buttons: each names the element whose text it copies, and says that it did.

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue; // an insecure origin: the text can still be selected
  button.hidden = false;
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", () => copy(button));
}

async function copy(button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it and copy by hand";
  }
  setTimeout(() => (button.textContent = before), 2000);
}

// The names of the fields, put into the prompt where the cursor stands.

const template = document.getElementById("id_template");

for (const button of document.querySelectorAll("[data-insert]")) {
  button.disabled = false;
  button.addEventListener("click", () => {
    template.focus();
    template.setRangeText(button.dataset.insert, template.selectionStart, template.selectionEnd, "end");
    template.dispatchEvent(new Event("input", { bubbles: true }));
  });
}

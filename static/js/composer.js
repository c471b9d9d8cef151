// The form that a prompt is written in: its fields, its examples, its sampling panel and its keys.

export class Composer {
  constructor(form, { send, stop }) {
    this.form = form;
    this.fields = [...form.querySelectorAll("[data-field]")];
    this.sendButton = form.querySelector(".composer-send");
    this.stopButton = form.querySelector(".composer-stop");
    this.error = form.querySelector(".composer-error");
    this.isBusy = false;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(send);
    });
    form.addEventListener("keydown", (event) => this.#key(event, send));
    this.stopButton.addEventListener("click", stop);
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.isBusy && !document.querySelector("dialog[open]")) stop();
    });
    this.#wireSampling(form.querySelector(".sampling"));
    for (const field of this.fields) field.addEventListener("input", () => this.#grow(field));
    document.addEventListener("click", (event) => {
      const example = event.target.closest("[data-inputs]");
      if (example) this.fill(JSON.parse(example.dataset.inputs));
    });
    for (const field of this.fields) this.#grow(field);
    this.#awake();
  }

  // What is written, in the shape that the socket takes.
  prompt() {
    if (this.form.dataset.mode === "text") return { text: this.fields[0].value };
    return { inputs: Object.fromEntries(this.fields.map((field) => [field.name, field.value])) };
  }

  sampling() {
    const values = [...this.form.querySelectorAll("[data-sampling]")].filter((input) => input.value !== "");
    return Object.fromEntries(
      values.map((input) => [
        input.dataset.sampling,
        input.dataset.sampling === "seed" ? input.value : Number(input.value),
      ]),
    );
  }

  // Put words into the fields, for the visitor to read and send.
  fill(inputs) {
    this.refuse("");
    for (const field of this.fields) {
      if (field.name in inputs) field.value = inputs[field.name];
      this.#grow(field);
    }
    this.fields[0].focus({ preventScroll: true });
    this.form.scrollIntoView({ block: "nearest" });
  }

  clear() {
    for (const field of this.fields) {
      field.value = "";
      this.#grow(field);
    }
  }

  busy(isBusy) {
    this.isBusy = isBusy;
    this.sendButton.hidden = isBusy;
    this.stopButton.hidden = !isBusy;
  }

  refuse(words) {
    this.error.textContent = words;
    this.error.hidden = !words;
  }

  // Until here a click would have been lost, so the page comes with these buttons disabled.
  #awake() {
    for (const button of document.querySelectorAll("[data-inputs], .composer-send")) button.disabled = false;
  }

  // The panel lies over the page, so it goes when the visitor turns elsewhere.
  #wireSampling(panel) {
    const close = () => (panel.open = false);
    document.addEventListener("click", (event) => panel.contains(event.target) || close());
    panel.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !panel.open) return;
      event.stopPropagation();
      close();
      panel.querySelector("summary").focus();
    });
  }

  #submit(send) {
    if (this.isBusy) return;
    const wrong = this.#wrong();
    this.refuse(wrong ? wrong.words : "");
    if (wrong) return wrong.field.focus();
    send();
  }

  // The first thing that keeps the form from being sent, and where it is.
  #wrong() {
    const max = Number(this.form.dataset.max);
    const length = this.fields.reduce((sum, field) => sum + field.value.length, 0);
    const empty = this.fields.find((field) => !field.value.trim());
    if (empty && this.fields.length === 1) return { field: empty, words: "Write something first." };
    if (empty) return { field: empty, words: `${empty.labels[0].textContent} is still empty.` };
    if (length > max) {
      return { field: this.fields[0], words: `${length} characters are too many; at most ${max} are read.` };
    }
    const odd = [...this.form.querySelectorAll("[data-sampling]")].find((input) => !input.checkValidity());
    if (!odd) return null;
    this.form.querySelector(".sampling").open = true;
    return { field: odd, words: `${odd.labels[0].textContent}: ${odd.validationMessage}` };
  }

  #key(event, send) {
    const isField = event.target.matches("[data-field]");
    if (!isField || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit(send);
  }

  // As tall as its words, up to the limit that the style sheet sets.
  #grow(field) {
    if (CSS.supports("field-sizing", "content")) return;
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight + 2}px`;
  }
}

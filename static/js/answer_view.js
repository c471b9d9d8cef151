// One answer on the page: waiting, growing, ended. It only shows; what its buttons do is the page's affair.

const STATES = {
  claimed: "A worker has taken it",
  loading: "Loading the adapter",
  running: "Reading the prompt",
};

export class AnswerView {
  constructor(section) {
    this.section = section;
    this.wait = section.querySelector(".answer-wait");
    this.waitText = section.querySelector(".answer-wait-text");
    this.text = section.querySelector(".answer-text");
    this.judgement = section.querySelector(".answer-judgement");
    this.foot = section.querySelector(".answer-foot");
    this.whole = this.text.textContent;
    this.onEnd = () => {};
    this.onGrow = () => {};
    this.#tools();
  }

  get id() {
    return this.section.dataset.answer;
  }

  get state() {
    return this.section.dataset.state;
  }

  get isRunning() {
    return this.state === "waiting" || this.state === "running" || this.state === "streaming";
  }

  // Clear it for a new answer.
  begin() {
    this.section.dataset.answer = "";
    this.section.setAttribute("aria-busy", "true");
    this.#reset();
    this.judgement.replaceChildren();
    this.foot.replaceChildren();
    this.#waiting("Sending");
    this.#become("waiting");
  }

  started(answer) {
    this.section.dataset.answer = answer;
    this.#waiting("In the queue");
    this.#become("running");
  }

  stopping() {
    this.#button("stop").disabled = true;
    this.#button("stop").textContent = "Stopping…";
  }

  hear(message) {
    const heard = {
      place: () => this.#waiting(place(message)),
      progress: () => this.#waiting(STATES[message.state] ?? "Working"),
      delta: () => this.#grow(message),
      finished: () => this.#end(message, message.reason),
      failed: () => this.#end(message, "failed"),
      refused: () => this.refuse(message),
    }[message.type];
    if (heard) heard();
  }

  // Nothing was started: say why, and offer what to do next.
  refuse(message) {
    this.foot.replaceChildren(errorBox(message));
    this.#end({ text: "", html: "", kind: "text" }, "failed");
  }

  #grow(message) {
    if (message.cursor === "0-0") this.#reset();
    if (!message.text) return;
    if (this.state !== "streaming") {
      this.wait.hidden = true;
      this.#become("streaming");
    }
    this.whole += message.text;
    if (!this.text.firstChild) this.text.append(document.createTextNode(""));
    this.text.firstChild.appendData(message.text);
    this.onGrow();
  }

  #end(message, state) {
    this.wait.hidden = true;
    this.whole = message.text;
    this.text.dataset.kind = message.kind;
    if (message.kind === "markdown") this.text.innerHTML = message.html;
    else if (this.text.textContent !== message.text) this.text.textContent = message.text;
    if (message.judgement !== undefined) this.judgement.innerHTML = message.judgement;
    if (message.foot !== undefined) this.foot.innerHTML = message.foot;
    this.section.setAttribute("aria-busy", "false");
    this.#become(state);
    this.onEnd(state, message);
  }

  #reset() {
    this.whole = "";
    this.text.dataset.kind = "text";
    this.text.replaceChildren();
  }

  #waiting(words) {
    if (this.state === "streaming") return;
    this.waitText.textContent = words;
    this.wait.hidden = false;
  }

  #become(state) {
    this.section.dataset.state = state;
    this.#tools();
  }

  #tools() {
    const isOver = !this.isRunning && this.state !== "idle";
    this.#show("stop", this.isRunning && Boolean(this.id));
    this.#show("copy", isOver && this.whole !== "");
    this.#show("regenerate", isOver && this.state !== "failed");
    const tools = this.section.querySelector(".answer-tools");
    const retry = tools.querySelector('[data-act="retry"]');
    if (retry) retry.hidden = !isOver || Boolean(this.foot.querySelector('[data-act="retry"]'));
    if (this.isRunning) {
      this.#button("stop").disabled = false;
      this.#button("stop").textContent = "Stop";
    }
  }

  #button(act) {
    return this.section.querySelector(`.answer-tools [data-act="${act}"]`);
  }

  #show(act, isShown) {
    const button = this.#button(act);
    if (button) button.hidden = !isShown;
  }
}

function place({ place, workers, base }) {
  const who = base ? `No worker of ${base} is up` : "No worker is up";
  if (workers === "none") return `${who}. Your answer starts when one is; you need not stay.`;
  if (workers === "starting") return "The worker is loading the base model. Your answer starts in a moment.";
  if (place === 0) return "Next in the queue";
  return place === 1 ? "1 request is before yours" : `${place} requests are before yours`;
}

function errorBox({ error, act, label, retry_after: seconds }) {
  const box = document.createElement("div");
  box.className = "notice bad answer-error";
  box.setAttribute("role", "alert");
  const words = document.createElement("p");
  words.textContent = error;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button small";
  button.dataset.act = act ?? "retry";
  button.textContent = label ?? "Ask again";
  box.append(words, button);
  if (seconds && act === "retry") countDown(button, seconds);
  return box;
}

function countDown(button, seconds) {
  const label = button.textContent;
  const end = Date.now() + Math.min(seconds, 3600) * 1000;
  button.disabled = true;
  const tick = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `${label} in ${left < 120 ? `${left} s` : `${Math.ceil(left / 60)} min`}` : label;
    if (left > 0 && button.isConnected) setTimeout(tick, 1000);
  };
  setTimeout(tick, 0);
}

// Copy the words of an answer as the model wrote them, and say so on the button.
export async function copy(view, button) {
  const label = "Copy";
  try {
    await navigator.clipboard.writeText(view.whole);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(view.text);
    button.textContent = "Press Ctrl C";
  }
  setTimeout(() => (button.textContent = label), 1600);
}

// Tell a screen reader once, in whole sentences, instead of token by token.
export function announce(words) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  setTimeout(() => (announcer.textContent = words.slice(0, 600)), 50);
}

export function ending(state, view) {
  if (state === "failed") return "";
  const how = { stopped: "Stopped. ", length: "Cut off at its longest length. " }[state] ?? "";
  const worth = view.judgement.querySelector(".answer-match")?.textContent;
  return `${how}${worth ? `${worth}. ` : ""}Answer: ${view.text.textContent.trim()}`;
}

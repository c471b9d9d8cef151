// One socket for a page and any number of answers over it. It comes back by itself after every drop, and each
// answer goes on from the last cursor that was seen, so nothing is missed and nothing is read twice.

import { Heartbeat } from "./heartbeat.js";

const START = "0-0";
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15_000;
const FAREWELLS = {
  4401: "You signed in or out elsewhere. Reload to go on.",
  4429: "Too many pages are open, or were opened within the hour. Close some, then reload.",
};
const UNAVAILABLE = 4503;
const UNAVAILABLE_WAIT = 5_000;
const STUCK = "The site cannot keep anything just now. Answers go on; this page tries again in a moment.";
const DOWN = "The connection is down. Answers go on; this page will catch up.";
const DROPPED = {
  type: "refused",
  code: "dropped",
  error: "The connection dropped while your message was on its way. Reload to see whether it arrived.",
  act: "reload",
  label: "Reload the page",
};

export class AnswerSocket extends EventTarget {
  #url;
  #socket = null;
  #ears = null; // listens to the socket, until it is given up
  #isDown = true;
  #isSilent = false;
  #wait = FIRST_WAIT;
  #timer = 0;
  #farewell = "";
  #unsent = [];
  #asked = new Map(); // request -> {hear, isSent}
  #followed = new Map(); // answer -> {cursor, hear}

  constructor(path) {
    super();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.#url = `${scheme}://${location.host}${path}`;
    this.heartbeat = new Heartbeat({
      ask: () => this.#send({ type: "ping" }),
      isWaiting: () => this.#followed.size + this.#asked.size > 0,
      onSilent: () => this.#silent(),
      onLost: () => this.#giveUp(),
    });
    addEventListener("offline", () => this.heartbeat.check());
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#hurry());
    this.#connect();
  }

  // Send a message that starts something; `hear` gets what the server says about this request.
  ask(message, hear) {
    const request = crypto.randomUUID?.() ?? `r${Date.now()}${Math.random().toString(36).slice(2)}`;
    if (this.#farewell) queueMicrotask(() => hear({ ...DROPPED, error: this.#farewell, request }));
    if (this.#farewell) return request;
    this.#asked.set(request, { hear, isSent: false });
    this.#unsent.push({ ...message, request });
    this.#flush();
    this.heartbeat.check();
    return request;
  }

  // Say goodbye to a request: nothing more is expected about it.
  settle(request) {
    this.#asked.delete(request);
  }

  // Hear about an answer that this page has just started: its events are already on their way.
  follow(answer, hear) {
    this.#followed.set(answer, { cursor: START, hear });
  }

  // Hear about an answer that was started elsewhere or before: its events are fetched from the beginning.
  resume(answer, hear) {
    this.follow(answer, hear);
    this.#send({ type: "resume", answer, after: START });
  }

  stop(answer) {
    return this.#send({ type: "stop", answer });
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#tell("connecting");
    this.#isDown = false;
    this.#ears = new AbortController();
    this.#socket = new WebSocket(this.#url);
    const on = (type, hear) => this.#socket.addEventListener(type, hear, { signal: this.#ears.signal });
    on("open", () => this.#opened());
    on("message", (event) => this.#heard(JSON.parse(event.data)));
    on("close", (event) => this.#closed(event.code));
    this.heartbeat.connecting();
  }

  // No answer to a question: the strip says so at once, for the answer may take long to come.
  #silent() {
    this.#isSilent = true;
    this.#tell("silent", DOWN);
  }

  // A dead connection takes minutes to close by itself: hear it no more, and begin anew.
  #giveUp() {
    this.#ears.abort();
    this.#socket.close();
    this.#closed(0);
  }

  #opened() {
    this.#isSilent = false;
    this.#tell("open");
    for (const [answer, { cursor }] of this.#followed) this.#send({ type: "resume", answer, after: cursor });
    this.#flush();
    this.heartbeat.heard();
  }

  #closed(code) {
    this.#isDown = true;
    this.heartbeat.stop();
    this.#farewell = FAREWELLS[code] ?? "";
    for (const [request, { hear, isSent }] of [...this.#asked]) {
      if (!isSent && !this.#farewell) continue;
      this.#asked.delete(request);
      hear({ ...DROPPED, request, ...(this.#farewell && { error: this.#farewell }) });
    }
    if (this.#farewell) return this.#tell("over", this.#farewell);
    if (code === UNAVAILABLE) this.#wait = Math.max(this.#wait, UNAVAILABLE_WAIT);
    this.#tell("waiting", code === UNAVAILABLE ? STUCK : DOWN);
    this.#timer = setTimeout(() => this.#connect(), this.#wait * (0.75 + Math.random() / 2));
    this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
  }

  // The network or the reader is back: do not sit out the wait, and do not trust what looks open.
  #hurry() {
    if (!this.#isDown) this.heartbeat.check();
    if (this.#farewell || !this.#isDown) return;
    this.#wait = FIRST_WAIT;
    this.#connect();
  }

  #flush() {
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    for (const message of this.#unsent.splice(0)) {
      const asked = this.#asked.get(message.request);
      if (asked) asked.isSent = true;
      this.#send(message);
    }
  }

  #send(message) {
    if (this.#socket.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #heard(message) {
    this.#wait = FIRST_WAIT;
    this.heartbeat.heard();
    if (this.#isSilent) this.#tell("open");
    this.#isSilent = false;
    if (message.request && this.#asked.has(message.request)) this.#asked.get(message.request).hear(message);
    else if (message.answer) this.#heardOfAnswer(message);
  }

  #heardOfAnswer(message) {
    const followed = this.#followed.get(message.answer);
    if (!followed) return;
    if (message.type === "interrupted") return this.#retry(message.answer);
    if (message.type === "delta" && !this.#isNews(followed, message.cursor)) return;
    if (["finished", "failed", "refused"].includes(message.type)) this.#followed.delete(message.answer);
    followed.hear(message);
  }

  // Whether a delta lies past the cursor. One under the first cursor tells the whole text anew.
  #isNews(followed, cursor) {
    if (cursor !== START && compare(cursor, followed.cursor) <= 0) return false;
    followed.cursor = cursor;
    return true;
  }

  #retry(answer) {
    setTimeout(() => {
      const followed = this.#followed.get(answer);
      if (followed) this.#send({ type: "resume", answer, after: followed.cursor });
    }, 2000);
  }

  #tell(state, text = "") {
    this.dispatchEvent(new CustomEvent("state", { detail: { state, text } }));
  }
}

// Cursors are "12-0", the number of an entry in its answer; both parts may be longer than a float holds exactly.
function compare(one, other) {
  const [a, b] = [one, other].map((cursor) => cursor.split("-").map(BigInt));
  for (let at = 0; at < 2; at += 1) if (a[at] !== b[at]) return a[at] < b[at] ? -1 : 1;
  return 0;
}

// The strip at the page's foot that says when the line is down, once that lasts longer than a blink.
export function showConnection(socket, strip) {
  const text = strip.querySelector(".connection-text");
  const button = strip.querySelector("button");
  let timer = 0;
  let words = DOWN;
  button.addEventListener("click", () => location.reload());
  socket.addEventListener("state", ({ detail }) => {
    if (detail.state === "waiting") words = detail.text;
    if (detail.state === "waiting") timer ||= setTimeout(() => show(words, false), 1500);
    if (detail.state === "silent") show(detail.text, false);
    if (detail.state !== "open" && detail.state !== "over") return;
    clearTimeout(timer);
    timer = 0;
    strip.hidden = true;
    if (detail.state === "over") show(detail.text, true);
  });
  function show(words, canReload) {
    text.textContent = words;
    button.hidden = !canReload;
    strip.hidden = false;
  }
}

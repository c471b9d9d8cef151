// The chat page: turns and their answers, over one socket.

import { AnswerView, announce, copy, ending } from "./answer_view.js";
import { AnswerSocket, showConnection } from "./answers.js";
import { Composer } from "./composer.js";
import { Scrolling } from "./scrolling.js";

const page = document.getElementById("chat");
const transcript = document.getElementById("transcript");
const socket = new AnswerSocket(document.getElementById("connection").dataset.socket);
const scrolling = new Scrolling(document.getElementById("latest"), transcript, page.querySelector(".chat-foot"));
const views = new WeakMap(); // section -> AnswerView
const form = document.getElementById("composer");
const composer = form ? new Composer(form, { send, stop: stopRunning }) : null;

showConnection(socket, document.getElementById("connection"));
for (const section of transcript.querySelectorAll(".answer")) adopt(section);
for (const turn of transcript.querySelectorAll(".turn")) number(turn);
if (transcript.children.length) scrolling.toEnd();
for (const link of document.querySelectorAll('[data-opens="picker"]')) link.addEventListener("click", choose);
if (matchMedia("(max-width: 860px)").matches) page.querySelector(".chat-kept").open = false;
if (matchMedia("(hover: hover)").matches) composer?.fields[0].focus({ preventScroll: true });

sendWhatWasLeft();
wireChoice();

// What was written in the box of another page of ours, for whichever adapter fits it.
async function sendWhatWasLeft() {
  if (!composer || page.dataset.conversation || !page.dataset.adapter.startsWith("auto")) return;
  const text = (await import("./ask.js")).left();
  if (!text) return;
  composer.fill({ [composer.fields[0].name]: text });
  send();
}

// Others who could answer, where the partner of this chat was chosen: the page comes again with whom is asked.
function wireChoice() {
  const error = document.getElementById("chosen-error");
  for (const button of document.querySelectorAll("[data-reroute]")) {
    button.disabled = false;
    button.addEventListener("click", () => {
      const message = { type: "reroute", conversation: page.dataset.conversation, adapter: button.dataset.reroute };
      const request = socket.ask(message, (reply) => {
        socket.settle(request);
        if (reply.url) return location.replace(reply.url);
        error.textContent = reply.error ?? "";
        error.hidden = !reply.error;
      });
    });
  }
}

// An answer that the page came with; one that still runs is followed from its beginning.
function adopt(section) {
  const view = viewOf(section);
  if (!view.isRunning) return;
  busy(true);
  socket.resume(view.id, (message) => view.hear(message));
}

function viewOf(section) {
  if (views.has(section)) return views.get(section);
  const view = new AnswerView(section);
  views.set(section, view);
  view.onGrow = () => scrolling.grown();
  view.onEnd = (state) => ended(view, state);
  return view;
}

function send() {
  const prompt = composer.prompt();
  const turn = newTurn(prompt);
  const view = addAnswer(turn);
  composer.clear();
  ask(view, turn, {
    type: "start",
    conversation: page.dataset.conversation || null,
    adapter: page.dataset.adapter,
    sampling: composer.sampling(),
    ...prompt,
  });
}

function regenerate(turn, source) {
  const view = addAnswer(turn);
  composer?.fields[0].focus({ preventScroll: true });
  ask(view, turn, { type: "regenerate", answer: source, sampling: composer?.sampling() ?? null });
}

function ask(view, turn, message) {
  view.begin();
  view.asked = message;
  busy(true);
  scrolling.toEnd();
  announce("Sent.");
  const request = socket.ask(message, (reply) => {
    socket.settle(request);
    if (reply.type !== "started") return view.hear(reply);
    if (reply.url) return location.replace(reply.url);
    turn.dataset.turn = reply.turn;
    settleIn(reply.conversation);
    view.started(reply.answer);
    socket.follow(reply.answer, (event) => view.hear(event));
  });
}

// The chat has an address and a place in the list as soon as its first answer has begun.
function settleIn(conversation) {
  const list = document.getElementById("conversations");
  if (page.dataset.conversation !== conversation) {
    page.dataset.conversation = conversation;
    history.replaceState(null, "", `/chat/${conversation}/`);
    list.setAttribute("hx-get", list.getAttribute("hx-get").replace(/current=.*$/, `current=${conversation}`));
    globalThis.htmx?.process(list);
  }
  globalThis.htmx?.trigger(list, "refresh");
}

function newTurn(prompt) {
  const turn = document.getElementById("turn-template").content.cloneNode(true).querySelector(".turn");
  const said = turn.querySelector(".said");
  const parts = prompt.inputs ? Object.entries(prompt.inputs) : [["", prompt.text]];
  for (const [name, text] of parts) said.append(saidPart(parts.length > 1 ? labelOf(name) : "", text));
  transcript.append(turn);
  page.classList.remove("is-empty");
  document.getElementById("chat-empty")?.remove();
  return turn;
}

function saidPart(label, text) {
  const part = document.createElement("div");
  part.className = "said-part";
  for (const [name, words] of [["said-label", label], ["said-text", text]]) {
    if (!words) continue;
    const line = document.createElement("p");
    line.className = name;
    line.textContent = words;
    part.append(line);
  }
  return part;
}

function labelOf(name) {
  return composer.fields.find((field) => field.name === name)?.labels[0].textContent ?? name;
}

function addAnswer(turn) {
  const section = document.getElementById("answer-template").content.cloneNode(true).querySelector(".answer");
  turn.querySelector(".answers").append(section);
  show(turn, turn.querySelectorAll(".answer").length - 1);
  return viewOf(section);
}

// Show one of a turn's answers, with its number where there are several.
function show(turn, at) {
  const sections = [...turn.querySelectorAll(".answer")];
  const shown = Math.max(0, Math.min(at, sections.length - 1));
  sections.forEach((section, index) => {
    section.hidden = index !== shown;
    section.querySelector(".answer-switch").hidden = sections.length < 2;
    section.querySelector(".answer-number").textContent = `${index + 1} of ${sections.length}`;
    section.querySelector('[data-act="previous"]').disabled = index === 0;
    section.querySelector('[data-act="next"]').disabled = index === sections.length - 1;
  });
}

function number(turn) {
  show(turn, turn.querySelectorAll(".answer").length - 1);
}

function ended(view, state) {
  busy(running().length > 0);
  announce(ending(state, view));
  scrolling.grown();
}

function running() {
  return [...transcript.querySelectorAll(".answer")].map(viewOf).filter((view) => view.isRunning);
}

function busy(isBusy) {
  composer?.busy(isBusy);
  page.classList.toggle("is-busy", isBusy);
}

function stopRunning() {
  for (const view of running()) stop(view);
}

function stop(view) {
  if (view.id && socket.stop(view.id)) view.stopping();
}

// Nothing was kept of a turn that was refused: take it off the page and put its words back.
function takeBack(turn, view) {
  const { inputs, text } = view.asked ?? {};
  const isOnly = turn.querySelectorAll(".answer").length === 1;
  if (!view.id) (isOnly ? turn : view.section).remove();
  if (!isOnly) number(turn);
  if (composer && (inputs || text !== undefined)) composer.fill(inputs ?? { [composer.fields[0].name]: text });
}

function askAgain(turn, view) {
  if (view.id) return regenerate(turn, view.id);
  const message = view.asked;
  if (message) ask(view, turn, { ...message, conversation: page.dataset.conversation || null });
}

transcript.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const section = button.closest(".answer");
  const turn = button.closest(".turn");
  const view = viewOf(section);
  const at = [...turn.querySelectorAll(".answer")].indexOf(section);
  const acts = {
    stop: () => stop(view),
    copy: () => copy(view, button),
    regenerate: () => running().length || askAgain(turn, view),
    retry: () => running().length || askAgain(turn, view),
    previous: () => show(turn, at - 1),
    next: () => show(turn, at + 1),
    edit: () => edit(turn, view),
    choose: () => document.querySelector('[data-opens="picker"]').click(),
    reload: () => location.reload(),
  };
  acts[button.dataset.act]?.();
});

// Put the words of a turn back into the composer, to be changed and sent again.
function edit(turn, view) {
  if (view.asked && !view.id) return takeBack(turn, view);
  const texts = [...turn.querySelectorAll(".said-text")].map((line) => line.textContent);
  composer?.fill(Object.fromEntries(composer.fields.map((field, index) => [field.name, texts[index] ?? ""])));
}

// What the choice of an adapter needs is fetched by whoever wants to choose.
async function choose(event) {
  const link = event.currentTarget;
  event.preventDefault();
  (await import("./picker.js")).openPicker(link);
}

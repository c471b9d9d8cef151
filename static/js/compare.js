// The compare page: one prompt, several columns, each with an answer of its own over one socket.

import { AnswerView, announce, copy, ending } from "./answer_view.js";
import { AnswerSocket, showConnection } from "./answers.js";
import { Composer } from "./composer.js";
import { wirePicker } from "./picker.js";

const DRAFT = "compare-draft";
const page = document.getElementById("compare");
const expected = document.getElementById("expected");
const socket = new AnswerSocket(document.getElementById("connection").dataset.socket);
const columns = [...page.querySelectorAll(".column")].map(columnOf);
const composer = new Composer(document.getElementById("composer"), { send: run, stop: stopAll });

showConnection(socket, document.getElementById("connection"));
wirePicker(() => !isRunning(), keepDraft);
restoreDraft();
for (const { view } of columns) {
  if (view.isRunning) socket.resume(view.id, (message) => view.hear(message));
}
refresh();

function columnOf(section) {
  const view = new AnswerView(section.querySelector(".answer"));
  const column = { section, view, name: section.dataset.name, position: Number(section.dataset.position) };
  view.onEnd = (state) => ended(column, state);
  return column;
}

function run() {
  page.dataset.comparison = "";
  for (const column of columns) begin(column);
  announce("Sent to every column.");
  const answers = new Set();
  const request = socket.ask(
    { type: "compare", columns: columns.map(({ name }) => name), sampling: composer.sampling(), ...composer.prompt() },
    (message) => {
      if (message.type === "compared") return settleIn(message);
      if (message.position === undefined) return refuseAll(request, message);
      hear(columns[message.position], message);
      if (answers.add(message.position).size === columns.length) socket.settle(request);
    },
  );
}

function retry(column) {
  if (!page.dataset.comparison) return run();
  begin(column);
  const message = { type: "retry", comparison: page.dataset.comparison, position: column.position };
  const request = socket.ask(message, (reply) => {
    socket.settle(request);
    hear(column, reply);
  });
}

function begin(column) {
  column.section.querySelector(".column-idle").hidden = true;
  column.view.begin();
  refresh();
}

// What is said of asking one column: it has started, or it was refused. The others go on.
function hear(column, message) {
  if (message.type !== "started") return column.view.hear(message);
  column.view.started(message.answer);
  socket.follow(message.answer, (event) => column.view.hear(event));
  refresh();
}

function refuseAll(request, message) {
  socket.settle(request);
  for (const { view } of columns) if (view.isRunning && !view.id) view.hear(message);
}

function settleIn({ comparison, url, expected: words }) {
  page.dataset.comparison = comparison;
  history.replaceState(null, "", url);
  expectation(words);
}

function expectation(words) {
  expected.querySelector(".expected-text").textContent = words;
  expected.hidden = !words;
}

function ended({ view, position }, state) {
  refresh();
  const words = ending(state, view);
  if (words) announce(`Column ${position + 1}. ${words}`);
}

function isRunning() {
  return columns.some(({ view }) => view.isRunning);
}

function refresh() {
  composer.busy(isRunning());
  for (const { section } of columns) section.querySelector(".column-choice").ariaDisabled = String(isRunning());
}

function stopAll() {
  for (const { view } of columns) stop(view);
}

function stop(view) {
  if (view.isRunning && view.id && socket.stop(view.id)) view.stopping();
}

page.addEventListener("click", (event) => {
  const link = event.target.closest("[data-columns-link]");
  if (link) keepDraft();
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const column = columns.find(({ section }) => section.contains(button));
  const acts = {
    stop: () => stop(column.view),
    copy: () => copy(column.view, button),
    retry: () => retry(column),
    edit: () => composer.fields[0].focus(),
    choose: () => column.section.querySelector(".column-choice").focus(),
    reload: () => location.reload(),
  };
  acts[button.dataset.act]?.();
});

// The box for the expected answer opens with the example, so that nothing moves once the answers come.
document.addEventListener("click", (event) => {
  const example = event.target.closest("[data-inputs]");
  if (example && !page.dataset.comparison) expectation(example.dataset.expected);
});

page.addEventListener("input", (event) => {
  if (event.target.matches("[data-field]") && !page.dataset.comparison) expectation("");
});

// Another set of columns is another page: take what is written along.
function keepDraft() {
  const written = Object.fromEntries(composer.fields.map((field) => [field.name, field.value]));
  sessionStorage.setItem(DRAFT, JSON.stringify(written));
}

function restoreDraft() {
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}");
  sessionStorage.removeItem(DRAFT);
  for (const field of composer.fields) if (!field.value && draft[field.name]) field.value = draft[field.name];
}

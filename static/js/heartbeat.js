// Whether anybody is still there: a network that goes away closes no socket, so whoever hears nothing has to ask.

const QUIET = 4_000; // so long nothing is heard of an answer under way before it is asked
const IDLE = 25_000; // and so long where nothing is expected
const SILENT = 4_000; // so long after the question the reader is told
const LOST = 10_000; // and so long after it the connection is given up

export class Heartbeat {
  #next = 0;
  #silent = 0;
  #lost = 0;

  // `ask` sends the question and says whether it could; `isWaiting` whether anything is under way.
  constructor({ ask, isWaiting, onSilent, onLost }) {
    Object.assign(this, { ask, isWaiting, onSilent, onLost });
  }

  // Something came: all is well.
  heard() {
    this.stop();
    this.#next = setTimeout(() => this.check(), this.isWaiting() ? QUIET : IDLE);
  }

  // Ask now. A question that is open already is not asked twice.
  check() {
    if (this.#lost || !this.ask()) return;
    this.#silent = setTimeout(this.onSilent, SILENT);
    this.#lost = setTimeout(this.onLost, LOST);
  }

  // A connection is being made: it may hang as well.
  connecting() {
    this.stop();
    this.#lost = setTimeout(this.onLost, LOST);
  }

  stop() {
    for (const timer of [this.#next, this.#silent, this.#lost]) clearTimeout(timer);
    this.#silent = this.#lost = 0;
  }
}

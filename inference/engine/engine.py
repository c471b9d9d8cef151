"""The whole machine on one page: requests come in by `add`, every `step` is one pass, events come out.

Synchronous, and called from one thread. Every request that is added leaves by exactly one terminal event of a
later step, unless it is aborted, which says nothing to anybody.
"""

from __future__ import annotations

import time
from dataclasses import replace
from math import isfinite
from typing import Final

from inference.adapters.file import AdapterRefused
from inference.adapters.invocation import place_of
from inference.adapters.stored import AdapterDamaged, AdapterNotFound
from inference.config import EngineConfig
from inference.decoders.interrupt import Interrupted
from inference.engine.answer import Answer, seed_of
from inference.engine.defaults import fill
from inference.engine.loading import Loaded
from inference.engine.machine import Machine, build_machine
from inference.engine.model_runner import OUT_OF_MEMORY, Outcome, OutOfMemory
from inference.engine.prompt import Prompt, PromptError, build_prompt
from inference.engine.sampler import RowSampling, SampledToken, refusal
from inference.model.tokenizer import Tokenizer
from inference.objects.failures import StoreAway
from inference.scheduling.plan import Plan
from inference.scheduling.sequence import Sequence, State
from inference.scheduling.speculation import Speculation
from inference.structured.grammar import ConstraintRefused
from inference.wire.capacity import Capacity
from inference.wire.contract import Resume
from inference.wire.failures import FailureCode
from inference.wire.protocol import (
    UNINVOKED,
    EngineLoad,
    Event,
    Failed,
    Finished,
    Generate,
    Probe,
    Progress,
    QueueClass,
    Request,
    Stats,
)

_NO_MEMORY: Final[tuple[FailureCode, str]] = (
    "out_of_memory",
    "The device has no memory left for this request; shorten it, or try again when there is less traffic.",
)
_NOT_FINITE: Final[tuple[FailureCode, str]] = (
    "internal",
    "The model computed numbers that are not finite; try another adapter.",
)
_NO_TOKEN: Final[tuple[FailureCode, str]] = (
    "invalid_request",
    "No token may follow here: the constraint, with min_tokens or logit_bias, allows none. Loosen one of them.",
)
_STORE_AWAY: Final[tuple[FailureCode, str]] = (
    "unavailable",
    "The store of adapters does not answer this worker now; try again in a moment.",
)
_DISK_FAILS: Final[tuple[FailureCode, str]] = (
    "unavailable",
    "This worker cannot get the adapter onto its disk, or read it there, now; try again in a moment.",
)
LOADING_PATIENCE: Final = 0.005
"""Seconds that a step waits for an adapter when there is nothing else to do."""


class Engine:
    """Decodes many requests, of any adapters, over one base model."""

    def __init__(self, config: EngineConfig, machine: Machine | None = None) -> None:
        """Load the base model that `config` names; tests bring a `machine` of their own."""
        self.machine = machine or build_machine(config)
        self.scheduler = self.machine.scheduler
        self._interrupt = self.machine.runner.decoder.interrupt
        self.speculation = Speculation(self.scheduler.pool, config.speculation)
        self._answers: dict[str, Answer] = {}
        self._events: list[Event] = []

    @property
    def fingerprint(self) -> str:
        """Workers of one fingerprint give the same bits."""
        return self.machine.fingerprint

    @property
    def has_work(self) -> bool:
        """Whether a step would do or tell anything."""
        return bool(self._events or self._answers or self.machine.incoming)

    @property
    def capacity(self) -> Capacity:
        """How many requests it would take now, a bounded look-ahead included."""
        return self.machine.incoming.leaves(self.scheduler.capacity)

    def add(self, request: Request, resume: Resume | None = None, queue_class: QueueClass = "chat") -> None:
        """Take a request, or go on with one that another worker has begun. A refusal is an event of the next step."""
        assert request.id not in self._answers, f"request {request.id} is here already"
        request = fill(request, self.machine.default_sampling)
        if self.machine.incoming.hold(request, resume, queue_class):
            self._events.append(Progress(request.id, "loading"))
        else:
            self._take_in(request, resume, queue_class)

    def _take_in(self, request: Request, resume: Resume | None, queue_class: QueueClass) -> None:
        try:
            self._start(self._accept(request, resume, queue_class))
        except PromptError as error:
            self._turn_away(request, error.code, str(error))

    def interrupt(self) -> None:
        """Somebody comes who should not wait for the end of the pass under way. From another thread, just after
        the request was sent to this one."""
        self._interrupt.request()

    def stop(self, id: str) -> None:
        """End an answer at a reader's wish; the next step tells its end. Unknown ids are ignored.

        Of one that waits for its adapter nothing is read, for that would wait for the fetch: what another worker has
        told of it stands.
        """
        if arrival := self.machine.incoming.take(id):
            self._events.append(Finished(id, "stopped", self._stats_of(arrival.request, arrival.resume)))
        if id in self._answers:
            self._answers[id].reason = "stopped"
            self._finish(self._answers[id])

    def abort(self, id: str) -> None:
        """Forget a request and free all it holds, without a word. Unknown ids are ignored."""
        self.machine.incoming.take(id)
        if id in self._answers:
            self._free(self._answers[id])
        self._events = [event for event in self._events if event.id != id]

    def step(self) -> list[Event]:
        """Compute one pass over all that can run, and tell what came of it and of what was asked since the last."""
        self._interrupt.acknowledge()
        self._collect_arrivals()
        self._collect_adapters()
        self._refuse_late()
        plan = Plan()
        try:
            plan = self.scheduler.schedule()
            self._announce(plan)
            if plan.works:
                plan = self.speculation.extend(plan)
                self._interrupt.begin(is_allowed=not plan.is_for_first_tokens)
                outcome = self.machine.runner.run(plan, self._samplings(plan))
                self.scheduler.advance(plan)
                self.speculation.settle(plan, outcome.tokens)
                self._take(outcome)
        except Interrupted:
            self._interrupt.abandon()
        except OUT_OF_MEMORY:
            self._shed(plan)
        events, self._events = self._events, []
        return events

    @property
    def load(self) -> EngineLoad:
        """What this engine holds and how busy it is."""
        traffic = self.scheduler.traffic
        return EngineLoad(
            on_device=self.machine.slots.digests,
            in_host=self.machine.host_cache.digests,
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            free_blocks=self.scheduler.pool.num_free,
            total_blocks=self.scheduler.pool.num_blocks,
            cached_blocks=self.scheduler.pool.num_cached,
            drafted_tokens=self.speculation.num_drafted,
            accepted_tokens=self.speculation.num_accepted,
            context_length=self.machine.context_length,
            max_rank=self.machine.max_rank,
            self_check=self.machine.self_check,
            loads=traffic.loads.total(),
            reloads=traffic.reloads,
            adapter_loads=traffic.most_loaded,
            preempted=traffic.preempted,
            displaced=traffic.displaced,
            stages=self.machine.runner.decoder.stages,
        )

    def close(self) -> None:
        """End the threads and the processes beside this one."""
        self.machine.incoming.close()
        self.machine.loader.close()
        self.machine.guides.close()
        self.machine.runner.decoder.close()

    def _accept(self, request: Request, resume: Resume | None, queue_class: QueueClass) -> Answer:
        """Put a request into tokens; raises `PromptError`."""
        tokenizer = self.machine.tokenizer
        if isinstance(request, Probe):
            prompt, max_tokens = Prompt(self.machine.runner.proof_ids(request.is_awaited)), 1
        else:
            tokenizer = self.machine.tokenizer_of(request.adapter)
            prompt, max_tokens = self._read(request, tokenizer)
        sequence = Sequence(
            id=request.id,
            prompt_ids=prompt.token_ids,
            max_tokens=max_tokens,
            digest=request.adapter.digest if request.adapter else "",
            is_probe=isinstance(request, Probe),
            queue_class=queue_class,
        )
        if not isinstance(request, Generate):
            # Its few tokens are read as if they invoked it: what is proven is that it changes what comes after.
            return Answer(request, self.fingerprint, sequence, tokenizer, resume)
        sequence = _of_answer(sequence, request, resume)
        # A sum or a blend is stored nowhere, so nothing invokes it, and to look for it would be to wait for the store.
        is_of_parts = request.adapter is not None and bool(request.adapter.components)
        invocation = () if is_of_parts else self.machine.told_of(sequence.digest).invocation
        invoked_at = place_of(invocation, prompt.token_ids) if invocation else None
        if invoked_at is not None:
            sequence = _invoked(sequence, invoked_at)
        return Answer(request, self.fingerprint, sequence, tokenizer, resume, prompt.dropped_turns, invoked_at)

    def _read(self, request: Generate, tokenizer: Tokenizer) -> tuple[Prompt, int]:
        """The prompt, and how many tokens the answer may have: those asked for, or those that the context leaves."""
        wrong = refusal(request.sampling)
        last = tokenizer.vocab_size - 1
        if not wrong and (beyond := [id for id, _ in request.sampling.logit_bias if id > last]):
            wrong = f"logit_bias has the token {beyond[0]}; the last one is {last}."
        if wrong:
            raise PromptError("invalid_request", wrong)
        prompt = build_prompt(request, tokenizer, self.machine.context_length)
        most = 0 if request.is_embedding else request.sampling.max_tokens
        return prompt, min(most, self.machine.context_length - len(prompt.token_ids))

    def _start(self, answer: Answer) -> None:
        """Queue an accepted request, unless what was streamed before a takeover is the whole answer."""
        self._answers[answer.id] = answer
        wanted = answer.digest, answer.components, answer.gate
        has_adapter = not answer.digest or self.machine.loader.want(*wanted)
        has_guide = not answer.constraint or self.machine.guides.want(answer.constraint)
        if not has_adapter or answer.constraint:
            answer.sequence.state = State.LOADING
        if not (has_adapter and has_guide):
            self._events.append(Progress(answer.id, "loading"))
        self.scheduler.add(answer.sequence)
        if answer.reason:
            self._finish(answer)

    def _turn_away(self, request: Request, code: FailureCode, sentence: str, retry_after: int = 0) -> None:
        """Refuse a request that never was an answer."""
        self._events.append(Failed(request.id, code, sentence, self._stats_of(request), retry_after))

    def _stats_of(self, request: Request, resume: Resume | None = None) -> Stats:
        """Those of a request that never was an answer here; what another worker told of it counts."""
        return Stats(
            completion_tokens=len(resume.token_ids) if resume else 0,
            seed=seed_of(request),
            digest=request.adapter.digest if request.adapter else "",
            fingerprint=self.fingerprint,
            takeovers=1 if resume else 0,
        )

    def _collect_arrivals(self) -> None:
        """Take in the requests whose adapters have come onto this host, and refuse those whose cannot be had."""
        is_idle = not (self._events or self._answers)
        for arrival in self.machine.incoming.poll(LOADING_PATIENCE if is_idle else 0.0):
            if arrival.failure:
                self._turn_away(arrival.request, *_explain(arrival.failure))
            else:
                self._take_in(arrival.request, arrival.resume, arrival.queue_class)

    def _collect_adapters(self) -> None:
        """Wake the requests whose adapter has been loaded, and refuse those whose adapter cannot be."""
        is_idle = not self._events and all(one.sequence.state is State.LOADING for one in self._answers.values())
        for loaded in self.machine.loader.poll(LOADING_PATIENCE if is_idle else 0.0):
            for answer in [one for one in self._answers.values() if one.digest == loaded.digest]:
                if loaded.error:
                    self._fail(answer, *_explain(loaded))
                else:
                    answer.times.loading = loaded.seconds
        if is_idle:
            self.machine.guides.wait(LOADING_PATIENCE)
        for answer in [one for one in self._answers.values() if one.sequence.state is State.LOADING]:
            self._wake(answer)

    def _wake(self, answer: Answer) -> None:
        """Let an answer start for which all is there."""
        guides = self.machine.guides
        if answer.constraint and not answer.guide and guides.want(answer.constraint):
            try:
                answer.follow(guides.guide(answer.constraint))
            except ConstraintRefused as error:
                self._fail(answer, "invalid_request", str(error))
                return
        has_adapter = not answer.digest or self.machine.loader.has(answer.digest)
        if has_adapter and (answer.guide or not answer.constraint):
            self.scheduler.wake(answer.sequence)
            if answer.reason:
                self._finish(answer)

    def _refuse_late(self) -> None:
        deadlines, incoming = self.machine.deadlines, self.machine.incoming
        for request, waited in deadlines.overdue(incoming.arrivals, time.time()):
            incoming.take(request.id)
            self._turn_away(request, *deadlines.refusal(request, waited))
        for answer in deadlines.late(self._answers.values()):
            self._fail(answer, *deadlines.refusal(answer.request, deadlines.expected(answer)))

    def _announce(self, plan: Plan) -> None:
        for sequence in plan.admitted:
            answer = self._answers[sequence.id]
            if not answer.times.admitted:
                answer.times.admitted = answer.clock()
                told = Progress(answer.id, "running", sequence.num_prompt, answer.dropped_turns, answer.invoked_at)
                self._events.append(told)

    def _samplings(self, plan: Plan) -> dict[str, list[RowSampling]]:
        sampled = (work for work in plan.works if work.is_sampled and not work.sequence.is_probe)
        return {work.sequence.id: self._answers[work.sequence.id].samplings(work.draft) for work in sampled}

    def _take(self, outcome: Outcome) -> None:
        """Give every answer its tokens, and end those that have got their last."""
        for id in outcome.spoiled:
            self.speculation.stop(id)
            self.scheduler.preempt(self._answers[id].sequence)
        for id, scores in outcome.scores.items():
            if not self._answers[id].score(scores):
                self._fail(self._answers[id], *_NOT_FINITE)
        for id, sums in outcome.sums.items():
            self._answers[id].pool(sums)
        for id, tokens in outcome.tokens.items():
            if id in self._answers:
                self._give(self._answers[id], tokens)
        for id, delta in outcome.logit_deltas.items():
            self._judge(self._answers[id], delta)

    def _give(self, answer: Answer, tokens: tuple[SampledToken, ...]) -> None:
        """Tell an answer's next tokens, and before the first what was asked of its prompt."""
        self._events += answer.prompted()
        if answer.sequence.is_pooled:
            self._embed(answer)
            return
        finite = tokens if tokens[-1].counts else tokens[:-1]
        if not answer.sequence.max_tokens:
            answer.reason = "length"
        elif finite:
            is_first = not answer.times.first_token
            self._events.append(answer.push(finite))
            if is_first:
                self.machine.deadlines.note(answer)
        if answer.reason:
            self._finish(answer)
        elif len(finite) < len(tokens):
            self._fail(answer, *(_NOT_FINITE if tokens[-1].is_allowed else _NO_TOKEN))

    def _embed(self, answer: Answer) -> None:
        """Tell the mean of a prompt that has been read, and no answer."""
        embedded = answer.embedded()
        if not all(map(isfinite, embedded.vector)):
            self._fail(answer, *_NOT_FINITE)
            return
        self._events.append(embedded)
        answer.reason = "done"
        self._finish(answer)

    def _judge(self, answer: Answer, delta: float) -> None:
        """End a probe: an adapter must change the base's logits, by finite amounts."""
        if 0 < delta < float("inf"):
            answer.logit_delta, answer.reason = delta, "done"
            self._finish(answer)
        elif delta == 0 and self._prove_on(answer):
            return
        elif delta == 0:
            self._fail(answer, "adapter_refused", "The adapter changes nothing: its logits are those of the base.")
        else:
            self._fail(answer, "adapter_refused", "The adapter makes the model compute numbers that are not finite.")

    def _prove_on(self, answer: Answer) -> bool:
        """Let an adapter that changes nothing of the canary's beginning show itself on all of it, if it has not."""
        read, canary_ids = answer.sequence, self.machine.runner.canary_ids
        if read.num_prompt == len(canary_ids):
            return False
        self.scheduler.finish(read)
        answer.sequence = Sequence(
            read.id, canary_ids, read.max_tokens, read.digest, is_probe=True, queue_class=read.queue_class
        )
        self.scheduler.add(answer.sequence)
        return True

    def _shed(self, plan: Plan) -> None:
        """After a pass that did not fit, give up the youngest request that was reading its prompt, or the youngest.

        With no pass it was an adapter that did not fit on the device: that of the one who was to start.
        """
        sequences = [work.sequence for work in plan.tiles or plan.decodes]
        victim = max(sequences, key=lambda sequence: sequence.arrival) if sequences else self.scheduler.starting
        assert victim is not None, "only an adapter that is put on the device takes memory before a pass"
        self._fail(self._answers[victim.id], *_NO_MEMORY)

    def _finish(self, answer: Answer) -> None:
        assert answer.reason is not None
        rest = answer.flush()
        if rest:
            self._events.append(rest)
        self._events.append(answer.finished(answer.reason))
        self._free(answer)

    def _fail(self, answer: Answer, code: FailureCode, sentence: str, retry_after: int = 0) -> None:
        self._events.append(answer.failed(code, sentence, retry_after))
        self._free(answer)

    def _free(self, answer: Answer) -> None:
        self.scheduler.finish(answer.sequence)
        if answer.digest:
            self.machine.loader.drop(answer.digest)
        self.speculation.forget(answer.id)
        del self._answers[answer.id]


def _of_answer(sequence: Sequence, request: Generate, resume: Resume | None) -> Sequence:
    """`sequence` with what is known of it by the request for an answer, and by what was told of its prompt."""
    wanted, num_told = request.sampling.prompt_logprobs, resume.num_prompted if resume else 0
    return replace(
        sequence,
        tenant=request.tenant,
        owner=request.owner,
        group=request.group,
        is_scored=wanted is not None and num_told < sequence.num_prompt,
        num_alternatives=wanted or 0,
        is_pooled=request.is_embedding,
    )


def _invoked(sequence: Sequence, place: int) -> Sequence:
    """`sequence` with its adapter from `place` on; without one, and a slot of one, where nothing invokes it."""
    return replace(sequence, digest="") if place == UNINVOKED else replace(sequence, active_from=place)


def _explain(loaded: Loaded) -> tuple[FailureCode, str]:
    """The code and the sentence for an adapter that could not be loaded."""
    if isinstance(loaded.error, AdapterRefused):
        return "adapter_refused", f"The adapter was refused: {loaded.error}."
    if isinstance(loaded.error, OutOfMemory):
        return _NO_MEMORY
    if isinstance(loaded.error, StoreAway):
        return _STORE_AWAY
    if isinstance(loaded.error, AdapterDamaged):
        return "adapter_not_found", f"What is stored as adapter {loaded.digest[:12]} is damaged; import it again."
    if isinstance(loaded.error, OSError) and not isinstance(loaded.error, FileNotFoundError):
        return _DISK_FAILS
    what, missing = "adapter", loaded.digest
    if isinstance(loaded.error, AdapterNotFound):
        what, missing = loaded.error.what, loaded.error.digest
    return "adapter_not_found", f"The {what} {missing[:12]} is not stored on this worker; import it again."

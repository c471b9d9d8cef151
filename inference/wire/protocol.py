"""The wire: every message between the site and a worker, as frozen dataclasses.

Both houses import this module, so it knows neither Django nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeGuard

from inference.wire.codec import Codec
from inference.wire.failures import FailureCode

QueueClass = Literal["chat", "evaluation"]
GateKind = Literal["arrow", "flow", "ramole"]
Reason = Literal["done", "length", "stopped"]
"""Why an answer ended: its own end or a stop string, `max_tokens` or the context, or a reader's stop."""

CLASSES: Final[tuple[QueueClass, ...]] = ("chat", "evaluation")
"""The classes of request in order of priority."""

UNINVOKED: Final = -1
"""In the place of a place: the prompt does not hold what invokes the adapter, and the base answers."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `role` is system, user, assistant or tool.

    `tool_calls` are those that an assistant made, as a JSON list of OpenAI's; a tool answers the one with the id
    `tool_call_id`.
    """

    role: str
    content: str
    tool_calls: str = ""
    tool_call_id: str = ""
    is_open: bool = False
    """Whether the answer goes on from this text of an assistant, which stands last."""


@dataclass(frozen=True)
class Component:
    """One of several adapters that answer together: what it adds to the base is multiplied by `weight`."""

    digest: str
    weight: float = 1.0


@dataclass(frozen=True)
class GateRef:
    """How each token weighs the parts of a blend (`inference.adapters.gate`).

    ``arrow`` follows from the parts, and `top_k`, 0 for all, and `temperature` are chosen; ``flow`` and ``ramole`` are
    trained and stored under `digest`, their settings with them.
    """

    kind: GateKind
    top_k: int = 0
    temperature: float = 1.0
    digest: str = ""


@dataclass(frozen=True)
class AdapterRef:
    """Which weights answer, by content: `digest` is the SHA-256 of `inference.adapters.identity`, in hex.

    `template` is the adapter's own prompt with literal ``{field}`` placeholders, empty when it has none. With
    `components` it is their weighted sum, whose `digest` is the `composed_digest` of them; with a `gate` too their
    blend, whose `digest` is the `blended_digest`.
    """

    digest: str
    template: str = ""
    fields: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    gate: GateRef | None = None


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like: `text` is a JSON schema, a list of choices in JSON, a regular expression or a
    grammar (Lark or GBNF), as `kind` says; for a JSON object it is empty."""

    kind: Literal["json_object", "json_schema", "regex", "choice", "grammar"]
    text: str = ""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy; `seed` None lets the worker draw one and report it.

    `max_tokens` 0 asks for no answer, only for what `prompt_logprobs` tells of the prompt.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 256
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    """How many alternatives to tell beside each token of the prompt; None tells nothing of the prompt."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits before one is chosen."""
    constraint: Constraint | None = None
    first_token_within: float = 0.0
    """Seconds from `Generate.created` in which the first token is wanted; what cannot make it is not begun. 0 waits."""
    unset: tuple[str, ...] = ()
    """Parameters that the caller left out, for which the base's own stand where a worker takes these."""


@dataclass(frozen=True)
class Generate:
    """A request for one answer. Exactly one of `messages`, `prompt`, `inputs` and `token_ids` is given.

    `prompt` is taken as it is, behind the base's opening token where it has one; `messages` go through the
    adapter's template where it has one, else through the base's chat template; `inputs` fills the adapter's own
    template; `token_ids` are the prompt's tokens, with nothing before them.
    """

    id: str
    adapter: AdapterRef | None = None
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    inputs: dict[str, str] | None = None
    token_ids: tuple[int, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = ""
    created: float = 0.0
    owner: str = ""
    """Who asked, where `tenant` stands for several who share their turns; they share nothing else."""
    group: str = ""
    """Requests of one call that share a prompt, which is then read once; empty for one that is alone."""
    is_embedding: bool = False
    """Whether it asks for no answer but for the mean of the prompt's last hidden states, told by `Embedded`."""
    tools: str = ""
    """A JSON list of the tools that the answer may call, in OpenAI's form; they go into the base's chat template."""
    tool_choice: str = ""
    """How the answer calls them: auto, one (none or one), required (one), parallel (one or several), or ``=`` and the
    name of the one that it calls."""
    keep_turns: bool = False
    """Refuse a chat that does not fit the context, and leave none of its old turns out."""


@dataclass(frozen=True)
class Probe:
    """A request to prove that an adapter loads and changes the base's logits on a fixed prompt."""

    id: str
    adapter: AdapterRef
    created: float = 0.0
    is_awaited: bool = False
    """Whether a program waits for it, so that it has turns beside the chats, and not behind them."""


Request = Generate | Probe


@dataclass(frozen=True)
class Progress:
    """What happens to a claimed request before its first token: `state` is claimed, loading or running."""

    id: str
    state: Literal["claimed", "loading", "running"]
    prompt_tokens: int = 0
    """Told once it runs, as are what of the chat was left out and where the adapter was invoked, as in `Stats`."""
    dropped_turns: int = 0
    invoked_at: int | None = None


@dataclass(frozen=True)
class Alternative:
    """A token that could stand in a place: its text, its log-probability, and its bytes in `hex` where the text, which
    holds U+FFFD for a part of a character, does not spell them."""

    token: str
    token_id: int
    logprob: float
    hex: str = ""
    is_special: bool = False
    """Whether it is a control token, which stands for no text."""

    @property
    def data(self) -> bytes:
        """The token's own bytes, perhaps a part of a character."""
        return bytes.fromhex(self.hex) if self.hex else self.token.encode()


@dataclass(frozen=True)
class TokenLogprob(Alternative):
    """A token of an answer or of a prompt, beside the `top` likeliest in its place.

    `rank` counts from 1, the likeliest; it is told of a prompt's tokens, and 0 for others. `offset` is told of an
    answer's: how many characters were whole before it. A part of a character has the place of its character, and a
    token within a stop string the place at which the text would have gone on.
    """

    top: tuple[Alternative, ...] = ()
    rank: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Prompted:
    """A piece of what the model makes of its prompt: tokens in order, told before the first of the answer.

    Nothing stands before the first token of all: its `logprob` is 0 and means nothing.
    """

    id: str
    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Embedded:
    """The mean of the hidden states behind the last norm, over all tokens of the prompt; of any length.

    A worker that takes a request over tells it anew, with the same bits.
    """

    id: str
    vector: tuple[float, ...]


@dataclass(frozen=True)
class TokenWeights:
    """How a blend's gate weighed its `parts`, in their order, for one token: the mean over layers and targets in the
    row behind which the token was chosen. A part of a character is told with U+FFFD."""

    token: str
    parts: tuple[float, ...]


@dataclass(frozen=True)
class Delta:
    """A piece of an answer: whole characters only, with the ids of the tokens generated since the last delta.

    `token_ids` may run ahead of `text` while a character is incomplete, or a stop string is still possible.
    """

    id: str
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    weights: tuple[TokenWeights, ...] = ()
    """Of the tokens that are text, where a blend answers and the worker's decoder tells them."""


@dataclass(frozen=True)
class Stats:
    """What an answer cost, and what it takes to repeat it. Times are in milliseconds."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    queue_ms: float = 0.0
    load_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    tokens_per_second: float = 0.0
    seed: int | None = None
    digest: str = ""
    fingerprint: str = ""
    dropped_turns: int = 0
    takeovers: int = 0
    cached_tokens: int = 0
    """Tokens of the prompt that were in the prefix cache from earlier prompts of the same tenant."""
    defaults: dict[str, float] = field(default_factory=dict)
    """The base's own sampling parameters that stood for some which the caller left out."""
    invoked_at: int | None = None
    """From which token of the prompt on an activated adapter is active, or `UNINVOKED`; None for all others."""
    logit_delta: float | None = None
    """Largest change of a logit that a probed adapter made; None for answers."""

    @property
    def is_uninvoked(self) -> bool:
        """Whether the base answered in place of an activated adapter."""
        return self.invoked_at == UNINVOKED


@dataclass(frozen=True)
class Finished:
    """The terminal entry of an answer that ended well."""

    id: str
    reason: Reason
    stats: Stats = field(default_factory=Stats)


@dataclass(frozen=True)
class Failed:
    """The terminal entry of an answer that could not be given.

    `code` is for programs, `error` one sentence that says what to do next.
    """

    id: str
    code: FailureCode
    error: str
    stats: Stats = field(default_factory=Stats)
    retry_after: int = 0
    """Seconds after which another try is likely to do better; 0 where nobody knows."""


Event = Progress | Prompted | Embedded | Delta | Finished | Failed
Terminal = Finished | Failed


@dataclass(frozen=True)
class StageLoad:
    """One of the processes that share a base: its layers from `first` to before `end`, the bytes of memory that it
    takes, and the seconds that it has computed since it began."""

    first: int
    end: int
    memory: int
    busy_seconds: float = 0.0
    process: int = 0
    """Its number on its host."""


@dataclass(frozen=True)
class EngineLoad:
    """What an engine holds and how busy it is. Digests come least recently used first; what is counted, is counted
    since its start."""

    on_device: tuple[str, ...] = ()
    in_host: tuple[str, ...] = ()
    running: int = 0
    waiting: int = 0
    free_blocks: int = 0
    total_blocks: int = 0
    cached_blocks: int = 0
    """Blocks that hold the beginnings of prompts for whoever asks with the same."""
    drafted_tokens: int = 0
    """Tokens that were guessed, of which `accepted_tokens` were right."""
    accepted_tokens: int = 0
    context_length: int = 0
    max_rank: int = 0
    self_check: str = ""
    loads: int = 0
    """How often an adapter was put on the device."""
    reloads: int = 0
    """How many of these had been there before: slots change hands too fast when this grows as fast as `loads`."""
    adapter_loads: tuple[tuple[str, int], ...] = ()
    """The digests that were loaded most often, and how often."""
    preempted: int = 0
    """How often a request was preempted because blocks ran out."""
    displaced: int = 0
    """How often one was preempted for a more urgent class, or for a tenant that had none running."""
    stages: tuple[StageLoad, ...] = ()
    """The processes that share the base, in the order of its layers; empty where it is in one."""


@dataclass(frozen=True)
class ClaimCounts:
    """What a worker has claimed since its start, of requests for an adapter: `hits` were for one that it held,
    `misses` for one that it did not; `stolen` are those of all that were meant for another worker."""

    hits: int = 0
    misses: int = 0
    stolen: int = 0


@dataclass(frozen=True)
class Heartbeat:
    """What a live worker tells every `HEARTBEAT_SECONDS`, kept in Redis with a short expiry.

    One that is `draining` takes nothing more and is not `ready`; it finishes what it has.
    """

    worker: str
    base: str
    ready: bool
    fingerprint: str = ""
    time: float = 0.0
    load: EngineLoad = field(default_factory=EngineLoad)
    claims: ClaimCounts = field(default_factory=ClaimCounts)
    draining: bool = False


_CODEC: Final = Codec[Request | Event | Heartbeat](
    Generate, Probe, Progress, Prompted, Embedded, Delta, Finished, Failed, Heartbeat
)
encode, decode = _CODEC.encode, _CODEC.decode


def is_terminal(event: Event) -> TypeGuard[Terminal]:
    """Whether `event` ends its stream."""
    return isinstance(event, Finished | Failed)

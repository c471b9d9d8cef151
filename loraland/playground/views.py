"""The chat pages: a new chat, a kept one, the visitor's list of them and the choice of an adapter."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRedirect

from inference.adapters.storable import is_storable
from inference.wire.contract import WireError
from loraland import bases
from loraland.bases import Base
from loraland.catalogue import listing
from loraland.catalogue.composition import base_of
from loraland.catalogue.windows import MORE
from loraland.generations.models import Generation
from loraland.generations.stop import stop
from loraland.generations.visitor import Visitor, visitor_of
from loraland.playground import conversations, pages, picking
from loraland.playground.answers import style_of
from loraland.playground.chosen import chosen_view
from loraland.playground.composer import composer_of, example_prompt, free_composer
from loraland.playground.messages import Prompt
from loraland.playground.models import Conversation
from loraland.playground.partner import Partner, base_in, read_back, version_in
from loraland.playground.sampling import defaults
from loraland.refusal import refused_is_not_found


@never_cache
@require_GET
def chat(request: HttpRequest) -> HttpResponse:
    """A new chat with an adapter or with the base. An example in the address fills the fields and sends nothing."""
    slug = request.GET.get("adapter", "")
    with refused_is_not_found():
        partner = conversations.partner(bases.without_auto(slug))
    version = version_in(partner)
    prompt = example_prompt(version, request.GET.get("example", ""))
    if bases.is_auto(slug):
        text = request.GET.get("text", "")[: settings.MAX_INPUT_CHARS]
        composer = free_composer(pages.examples(), Prompt(text=text) if is_storable(text) else None)
        return render(request, "playground/chat.html", _page(request, partner, composer=composer, auto=slug))
    composer = composer_of(version, defaults(version), prompt)
    is_closed = version is not None and not version.adapter.is_served
    context = _page(request, partner, composer=composer, is_choosing=not slug, is_closed=is_closed)
    return render(request, "playground/chat.html", context)


@never_cache
@require_GET
def conversation(request: HttpRequest, id: UUID) -> HttpResponse:
    kept = _kept(visitor_of(request), id)
    version = kept.adapter.published if kept.adapter else None
    if version and kept.adapter:
        version.adapter = kept.adapter
    partner = read_back(version, kept.base)
    context = _page(
        request,
        partner,
        composer=composer_of(version, defaults(version)),
        conversation=kept,
        turns=pages.turns_of(kept),
        chosen=chosen_view(kept, base_in(partner) or base_of(version)),
        is_closed=_is_closed(kept, partner),
    )
    return render(request, "playground/chat.html", context)


@never_cache
@require_GET
def conversation_list(request: HttpRequest) -> HttpResponse:
    """The list alone, for a page whose chats have changed; `current` is the one that it shows."""
    context = {
        "conversations": pages.conversations_of(visitor_of(request)),
        "current": request.GET.get("current", ""),
    }
    return render(request, "playground/_conversations.html", context)


@require_http_methods(["GET", "POST"])
def rename(request: HttpRequest, id: UUID) -> HttpResponse:
    """The form for a new title, and the entry with the new title once it is sent."""
    kept = _kept(visitor_of(request), id)
    if request.method == "GET":
        is_asking = "cancel" not in request.GET
        template = "_rename.html" if is_asking else "_conversation.html"
        return _entry(request, template, kept, request.GET)
    title = " ".join(request.POST.get("title", "").split())[:120]
    if title and is_storable(title):
        Conversation.objects.filter(pk=kept.pk).update(title=title)
        kept.title = title
    if not request.htmx:  # type: ignore[attr-defined]
        return redirect(kept)
    return _entry(request, "_conversation.html", kept, request.POST)


@require_POST
async def delete(request: HttpRequest, id: UUID) -> HttpResponse:
    """Forget the chat with its answers. What still answers is stopped, or ends unread when Redis is out of reach."""
    visitor = await sync_to_async(visitor_of)(request)
    kept = await sync_to_async(_kept)(visitor, id)
    running = Generation.objects.filter(answer__turn__conversation=kept).unfinished()
    with suppress(WireError):
        async for generation in running:
            await stop(generation)
    await sync_to_async(kept.forget)()
    if request.POST.get("current") == str(id):
        return HttpResponseClientRedirect(reverse("chat"))
    return HttpResponse("") if request.htmx else redirect("chat")  # type: ignore[attr-defined]


@require_GET
def picker(request: HttpRequest) -> HttpResponse:
    """Whom to choose, found by words and category: a page, its list for a page that has it open, or what follows."""
    context: dict[str, object] = {"picks": picking.picks(request.GET, request.user)}
    is_part = request.htmx  # type: ignore[attr-defined]
    template = "_picks.html" if request.headers.get("HX-Target") == MORE else "_picker_list.html"
    context |= {"is_part": True} if is_part else {"categories": picking.categories()}
    response = render(request, f"playground/{template if is_part else 'picker.html'}", context)
    response["Vary"] = "HX-Request, HX-Target"
    return response


def _is_closed(kept: Conversation, partner: Partner) -> bool:
    """Whether nobody answers in a chat any more: its adapter is gone, or its base is not served."""
    if kept.adapter:
        return isinstance(partner, Base) or not kept.adapter.is_served
    return isinstance(partner, Base) and not partner.is_served


def _page(request: HttpRequest, partner: Partner, **more: object) -> dict[str, object]:
    version = version_in(partner)
    return {
        "version": version,
        "adapter": version.adapter if version else None,
        "base": base_in(partner) or base_of(version),
        "bases": bases.served(),
        "style": style_of(version),
        "conversations": pages.conversations_of(visitor_of(request)),
        "adapters": listing.specialists(pages.OFFERED) if more.get("is_choosing") else [],
        "categories": picking.categories(),
        "max_input": settings.MAX_INPUT_CHARS,
        **more,
    }


def _entry(request: HttpRequest, template: str, kept: Conversation, sent: QueryDict) -> HttpResponse:
    context = {"conversation": kept, "current": sent.get("current", "")}
    return render(request, f"playground/{template}", context)


def _kept(visitor: Visitor, id: UUID) -> Conversation:
    with refused_is_not_found():
        return conversations.conversation_of(visitor, id)

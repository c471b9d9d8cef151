from __future__ import annotations

from django.urls import URLPattern, path

from loraland.playground import compare_views, views

urlpatterns: list[URLPattern] = [
    path("chat/", views.chat, name="chat"),
    path("chat/list/", views.conversation_list, name="conversation_list"),
    path("chat/adapters/", views.picker, name="picker"),
    path("chat/<uuid:id>/", views.conversation, name="conversation"),
    path("chat/<uuid:id>/rename/", views.rename, name="rename_conversation"),
    path("chat/<uuid:id>/delete/", views.delete, name="delete_conversation"),
    path("compare/", compare_views.compare, name="compare"),
    path("compare/<uuid:id>/", compare_views.comparison, name="comparison"),
]

"""The addresses of measurements."""

from __future__ import annotations

from django.urls import path

from loraland.evals import paper_views, views

urlpatterns = [
    path("leaderboard/", views.board, name="leaderboard"),
    path("leaderboard.csv", views.board_csv, name="leaderboard-csv"),
    path("leaderboard.json", views.board_json, name="leaderboard-json"),
    path("leaderboard/<slug:task>/", views.task, name="task"),
    path("runs/<uuid:pk>/", views.run, name="run"),
    path("paper/", paper_views.paper, name="paper"),
    path("paper/blends/", paper_views.blends, name="claims"),
    path("paper/complexity/", paper_views.complexity, name="complexity"),
]

// Light or dark: the visitor's choice, else the system's. Loaded before the first paint, so nothing flashes.

(() => {
  const root = document.documentElement;
  const night = matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage is closed to us: follow the system
    }
  }

  function keep(theme) {
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // storage is closed to us: the choice lasts as long as the page
    }
  }

  function show(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    root.dataset.shade = root.dataset.theme ?? (night.matches ? "dark" : "light");
    for (const button of document.querySelectorAll(".theme-toggle")) label(button);
  }

  function label(button) {
    button.hidden = false;
    const next = root.dataset.shade === "dark" ? "light" : "dark";
    button.setAttribute("aria-label", `Switch to the ${next} colours`);
  }

  show(chosen());
  night.addEventListener("change", () => show(chosen()));
  document.addEventListener("DOMContentLoaded", () => show(chosen()));
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".theme-toggle")) return;
    const theme = root.dataset.shade === "dark" ? "light" : "dark";
    keep(theme);
    show(theme);
  });
})();

// The lamp: what the workers hold, asked again every five seconds while the page is seen. An answer names adapters by
// their emblem in the page's own sprite, and one that has not changed is a 304 without a body.

const PERIOD = 5000;
const live = document.querySelector("[data-live]");
const lost = `<p class="lamp unreachable"><strong>Out of reach.</strong> The site does not answer.</p><p class="resident"></p>`;

async function ask() {
  if (!document.hidden) live.innerHTML = await answer();
  setTimeout(ask, PERIOD);
}

async function answer() {
  try {
    const response = await fetch(live.dataset.live);
    return response.ok ? await response.text() : lost;
  } catch {
    return lost;
  }
}

ask();
document.addEventListener("visibilitychange", async () => {
  if (!document.hidden) live.innerHTML = await answer();
});

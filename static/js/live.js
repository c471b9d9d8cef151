// The lamp beside the base: what the workers hold, asked again every five seconds while the page is seen.

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

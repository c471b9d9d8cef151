// The lamps: what the workers of a base hold, asked again every five seconds while the page is seen. An answer
// that has not changed is a 304 without a body.

const PERIOD = 5000;
const lamps = [...document.querySelectorAll("[data-live]")];
const lost = `<p class="lamp unreachable"><strong>Out of reach.</strong> The site does not answer.</p><p class="resident"></p>`;

async function ask() {
  if (!document.hidden) await Promise.all(lamps.map(show));
  setTimeout(ask, PERIOD);
}

async function show(lamp) {
  lamp.innerHTML = await answer(lamp.dataset.live);
}

async function answer(address) {
  try {
    const response = await fetch(address);
    return response.ok ? await response.text() : lost;
  } catch {
    return lost;
  }
}

ask();
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) lamps.forEach(show);
});

// The lamps: what the workers of a base hold, asked again every five seconds while the page is seen. An answer
// that has not changed is a 304 without a body.

const PERIOD = 5000;
const lamps = [...document.querySelectorAll("[data-live]")];
const lost = `<p class="lamp unreachable"><strong>Out of reach.</strong> The site does not answer.</p><p class="resident"></p>`;

async function ask() {
  if (!document.hidden) await Promise.all(lamps.map(show));
  setTimeout(ask, PERIOD);
}

// What lies on the device is told anew only where it is not what the page shows.
async function show(lamp) {
  const address = new URL(lamp.dataset.live, location);
  address.searchParams.set("shown", lamp.querySelector(".resident")?.dataset.key ?? "");
  const told = document.createElement("template");
  told.innerHTML = await answer(address);
  const same = told.content.querySelector("[data-is-shown]");
  const shown = lamp.querySelector(".resident");
  if (same && same.dataset.key === shown?.dataset.key) same.replaceWith(shown);
  lamp.replaceChildren(told.content);
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

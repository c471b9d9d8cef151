// Names that are offered while one is written: those that fit what is written so far, from the address of their list.

const PAUSE = 150;
let waiting, asking;

document.addEventListener("input", ({ target }) => {
  const list = target.list;
  if (!list?.dataset.offers) return;
  clearTimeout(waiting);
  if ([...list.options].some((option) => option.value === target.value)) return; // chosen out of the list
  waiting = setTimeout(() => offer(list, target.value), PAUSE);
});

async function offer(list, words) {
  asking?.abort();
  asking = new AbortController();
  try {
    const response = await fetch(`${list.dataset.offers}?q=${encodeURIComponent(words)}`, { signal: asking.signal });
    if (response.ok) list.innerHTML = await response.text();
  } catch {} // other words are asked already, or nobody answers: what was offered stays
}

// Keeps the texts of an open page up to date. It writes only to elements with data-live and
// data-live-width, only texts and widths. If the page itself has changed, it loads the page and
// replaces what is between the main tags.
const main = document.querySelector("main");
const { page, retry } = main.dataset;
const retryAfter = 5000;
const mostStreams = 4; // of one browser, which opens six connections to a server
const askEvery = 2000; // of the pages beyond that
let stream, poll, release, later, latest, lostAt, over, replacing;

function local(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

// note shows a text above the page, or none. stale: the numbers below are old.
function note(text, stale) {
  const el = document.getElementById("down");
  document.body.classList.toggle("stale", Boolean(stale));
  el.hidden = !text;
  if (text && el.textContent !== text) el.textContent = text;
}

function show(state) {
  latest = state;
  lostAt = undefined;
  clearTimeout(later);
  if (state.ended) {
    over = true;
    close();
    note("The server has ended. These are its last numbers.");
  } else if (state.down) {
    note(`Redis cannot be reached since ${new Date(state.down).toLocaleTimeString()}. The numbers are from then.`, true);
  } else {
    note("");
  }
  write(state);
  if (state.shape !== main.dataset.shape && !over) replace(state); // at the end there is nobody left to ask
}

function write(state) {
  if (state.title) document.title = document.title.replace(/^.*?(?= · [^·]*linkcancel$| · linkcancel$)/, state.title);
  for (const el of document.querySelectorAll("[data-live]")) {
    const text = state.texts?.[el.dataset.live];
    if (text !== undefined && el.textContent !== text) el.textContent = text;
  }
  for (const el of document.querySelectorAll("[data-live-width]")) {
    const width = Number(state.sizes?.[el.dataset.liveWidth]);
    if (!isNaN(width)) el.setAttribute("width", width);
  }
}

// A person who uses a form is not disturbed.
function busy() {
  return document.activeElement?.closest("main form")
    || [...document.querySelectorAll("main form input")].some((i) => i.value !== i.defaultValue || i.checked !== i.defaultChecked);
}

async function replace(state) {
  if (replacing) return;
  if (busy()) return void (later = setTimeout(() => show(latest), 1000));
  replacing = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    const open = [...document.querySelectorAll("main details[open][id]")].map((d) => d.id);
    main.replaceChildren(...fresh.childNodes);
    main.dataset.shape = fresh.dataset.shape ?? state.shape;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    local(main);
    write(latest);
  } catch {
    later = setTimeout(() => show(latest), 1000);
  } finally {
    replacing = false;
  }
}

async function ask() {
  try {
    const answer = await fetch(page + "&once");
    if (answer.ok) show(await answer.json());
    else if (answer.status === 404) show({ shape: "gone" });
    else if (answer.status === 401) note("This page is closed. Open it again by the link that linkcancel serve prints.", true);
    else note("The server cannot read Redis. The numbers are old.", true);
  } catch {
    lost();
  }
}

function lost() {
  lostAt ??= new Date();
  note(`The server has not answered since ${lostAt.toLocaleTimeString()}. The numbers are from then.`, true);
}

// slot takes one of the streams of this browser, if it can tell how many there are.
async function slot() {
  for (let n = 0; n < mostStreams && navigator.locks; n++) {
    const mine = await new Promise((tell) =>
      navigator.locks.request(`linkcancel stream ${n}`, { ifAvailable: true }, (lock) => {
        tell(Boolean(lock));
        return lock && new Promise((free) => (release = free));
      }));
    if (mine) return true;
  }
  return !navigator.locks;
}

async function connect() {
  close();
  if (over) return;
  if (!(await slot())) {
    await ask();
    clearTimeout(poll);
    poll = document.hidden ? undefined : setTimeout(connect, askEvery);
    return;
  }
  if (document.hidden) return close();
  stream?.close();
  stream = new EventSource(page);
  stream.onmessage = (message) => show(JSON.parse(message.data));
  stream.onerror = () => {
    if (stream.readyState !== EventSource.CLOSED) return void lost(); // the browser tries again
    close();
    ask(); // the server has too many streams, or wants another token
    poll = setTimeout(connect, retryAfter);
  };
}

function close() {
  stream?.close();
  release?.();
  clearTimeout(poll);
}

// A hidden page has no stream: a browser opens only six connections to a server.
local(document);
if (page) {
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : connect()));
  window.addEventListener("pagehide", close);
  if (!document.hidden) connect();
}

// A page that could not be shown is loaded as soon as it can be.
if (retry !== undefined) setInterval(() => fetch(location.href).then((answer) => answer.ok && location.reload(), () => {}), retryAfter);

// Keeps the texts of an open page up to date. It writes only to elements with data-live and
// data-live-width, only texts and widths. If the page itself has changed, it loads the page and
// replaces what is between the main tags.
const { page, retry } = document.querySelector("main").dataset;
const retryAfter = 5000;
const mostStreams = 4; // of one browser, which opens six connections to a server
const askEvery = 2000; // of the pages beyond that
let stream, poll, release, shape, latest, ended, over;

function local(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (!isNaN(at)) time.textContent = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

function down(since) {
  document.body.classList.toggle("stale", Boolean(since));
  const note = document.getElementById("down");
  note.hidden = !since;
  if (since) document.getElementById("since").textContent = new Date(since).toLocaleTimeString();
}

function show(state) {
  latest = state;
  down(state.down);
  if (state.ended) {
    over = true;
    close();
    const note = document.getElementById("down");
    note.hidden = false;
    note.textContent = "The server has ended. These are its last numbers.";
  }
  if (state.shape === "gone" || (shape && state.shape !== shape)) {
    shape = state.shape;
    if (!over) return replace(); // there is nobody left to ask
  }
  shape = state.shape;
  write(state);
}

function write(state) {
  if (state.title) document.title = document.title.replace(/^.*?(?= · [^·]*linkcancel$| · linkcancel$)/, state.title);
  for (const el of document.querySelectorAll("[data-live]")) {
    const text = state.texts[el.dataset.live];
    if (text !== undefined && el.textContent !== text) el.textContent = text;
  }
  for (const el of document.querySelectorAll("[data-live-width]")) {
    const width = Number(state.sizes[el.dataset.liveWidth]);
    if (!isNaN(width)) el.setAttribute("width", width);
  }
}

// A person who uses a form is not disturbed: the page is replaced a moment later.
async function replace() {
  const busy = document.activeElement?.closest("main form") || [...document.querySelectorAll("main form input")].some((i) => i.value !== i.defaultValue || i.checked !== i.defaultChecked);
  if (busy) return void (shape = undefined);
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const text = await answer.text();
    const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
    const open = [...document.querySelectorAll("main details[open][id]")].map((d) => d.id);
    const main = document.querySelector("main");
    main.replaceChildren(...fresh.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    local(main);
    if (latest && answer.ok) write(latest);
  } catch {
    shape = undefined; // the next event tries again
  }
}

async function ask() {
  try {
    const answer = await fetch(page + "&once");
    if (answer.ok) show(await answer.json());
    else down(new Date());
  } catch {
    lost();
  }
}

function lost() {
  ended ??= new Date();
  const note = document.getElementById("down");
  document.body.classList.add("stale");
  note.hidden = false;
  note.textContent = `The server does not answer since ${ended.toLocaleTimeString()}. The numbers are from then.`;
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
  stream.onmessage = (message) => {
    if (ended) return location.reload(); // the server is back
    show(JSON.parse(message.data));
  };
  stream.onerror = () => {
    if (stream.readyState !== EventSource.CLOSED) return void lost(); // the browser tries again
    close();
    ask(); // the server has too many streams
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

"use strict";

const $ = (id) => document.getElementById(id);
const state = {model: null, messages: [], running: null};

function say(text) { $("status").textContent = text; }

function addTurn(role, text) {
  const turn = document.createElement("article");
  turn.className = "turn " + role;
  const name = document.createElement("h2");
  name.textContent = role === "user" ? "You" : state.model.id;
  const body = document.createElement("p");
  body.textContent = text;
  turn.append(name, body);
  $("log").append(turn);
  scrollDown(true);
  return body;
}

// Follows the answer, unless the reader has scrolled up.
function scrollDown(always) {
  const log = $("log");
  if (always || log.scrollHeight - log.scrollTop - log.clientHeight < 80) {
    log.scrollTop = log.scrollHeight;
  }
}

function number(id) {
  const value = $(id).valueAsNumber;
  return Number.isFinite(value) ? value : undefined;
}

function attention() {
  return document.querySelector("input[name=attention]:checked").value;
}

// A checkpoint without a chat template goes on with the text.
function requestOf() {
  const body = {
    model: state.model.id, stream: true, stream_options: {include_usage: true},
    attention: attention(), max_tokens: number("max-tokens"), temperature: number("temperature"),
  };
  if (body.attention === "moba") body.moba_topk = number("topk");
  if (state.model.chat) {
    const system = $("system").value.trim();
    body.messages = (system ? [{role: "system", content: system}] : []).concat(state.messages);
    return ["/v1/chat/completions", body];
  }
  body.prompt = state.messages.map((message) => message.content).join("");
  return ["/v1/completions", body];
}

// The events of a stream, one JSON value each.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      if (!event.startsWith("data: ")) continue;
      const data = event.slice(6);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function showNumbers(tokens, seconds, usage, mode) {
  $("speed").textContent = seconds > 0 ? (tokens / seconds).toFixed(1) + " tokens/s" : "–";
  $("mode").textContent = mode === "moba" ? "MoBA" : "full";
  if (!usage) return;
  const max = state.model.max_model_len;
  const share = (100 * usage.total_tokens / max).toFixed(1);
  $("context").textContent =
    `${usage.total_tokens.toLocaleString()} of ${max.toLocaleString()} (${share}%)`;
  $("cached").textContent = usage.prompt_tokens_details.cached_tokens.toLocaleString() + " tokens";
}

async function answer() {
  const [url, body] = requestOf();
  const abort = new AbortController();
  state.running = abort;
  setBusy(true);
  say("Reading the prompt …");
  const target = addTurn("assistant", "");
  let text = "";
  let first = 0;
  let tokens = 0;
  let usage = null;
  try {
    const response = await fetch(url, {
      method: "POST", signal: abort.signal, headers: {"Content-Type": "application/json"},
      body: JSON.stringify(body),
    });
    if (!response.ok) {
      const problem = await response.json().catch(() => null);
      throw new Error(problem ? problem.error.message : "The server answered " + response.status);
    }
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage || usage;
      const choice = event.choices[0];
      const piece = choice && (choice.delta ? choice.delta.content : choice.text);
      if (!piece) continue;
      const now = performance.now();
      if (first === 0) { first = now; say("Answering …"); }
      tokens += 1;
      text += piece;
      target.textContent = text;
      scrollDown(false);
      showNumbers(tokens - 1, (now - first) / 1000, null, body.attention);
    }
    say("Done.");
  } catch (error) {
    if (error.name === "AbortError") {
      say("Stopped.");
    } else {
      say("Failed: " + error.message);
      target.classList.add("failed");
      if (!text) target.textContent = error.message;
    }
  }
  const generated = usage ? usage.completion_tokens : tokens;
  const seconds = first ? (performance.now() - first) / 1000 : 0;
  showNumbers(Math.max(0, generated - 1), seconds, usage, body.attention);
  if (text) {
    state.messages.push({role: "assistant", content: text});
  } else {
    state.messages.pop();
  }
  state.running = null;
  setBusy(false);
}

function setBusy(busy) {
  $("send").hidden = busy;
  $("stop").hidden = !busy;
  $("log").setAttribute("aria-busy", String(busy));
  $("message").focus();
}

function send(event) {
  event.preventDefault();
  const text = $("message").value;
  if (state.running || !state.model || !text.trim()) return;
  $("message").value = "";
  state.messages.push({role: "user", content: text});
  addTurn("user", text);
  answer();
}

function stop() {
  if (state.running) state.running.abort();
}

function startAnew() {
  stop();
  state.messages = [];
  $("log").replaceChildren();
  say("");
  $("message").focus();
}

async function begin() {
  $("form").addEventListener("submit", send);
  $("stop").addEventListener("click", stop);
  $("new").addEventListener("click", startAnew);
  $("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
  for (;;) {
    try {
      const response = await fetch("/v1/models");
      if (response.ok) {
        state.model = (await response.json()).data[0];
        break;
      }
      say(response.status === 503 ? "The model is being loaded …" : "No model: " + response.status);
    } catch (error) {
      say("The server does not answer.");
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  $("model").textContent = state.model.id;
  document.title = state.model.id + " – moba chat";
  const mode = state.model.attention === "full" ? "full" : "moba";
  document.querySelector(`input[name=attention][value=${mode}]`).checked = true;
  say(state.model.chat ? "Ready." : "Ready. This model has no chat template: it goes on with your text.");
  $("message").focus();
}

begin();

// Logging in, and making the first user by the link that the server printed.
import { send, welcome } from "/ui/access.js";
import { el, say } from "/ui/dom.js";
import { status } from "/ui/status.js";

let fields = 0;

/** A field with its label; `hint` stands below and is read with it. */
export function field(label, attributes, hint) {
  const id = `field-${(fields += 1)}`;
  const input = el(attributes.options ? "select" : "input", { id, ...attributes, options: null, "aria-describedby": hint ? `${id}-hint` : null },
    ...(attributes.options ?? []).map(([value, words]) => el("option", { value }, words)));
  return { input, node: el("p", { class: "field" }, el("label", { for: id }, label), input, hint ? el("small", { id: `${id}-hint` }, hint) : null) };
}

/** A form that says what went wrong, and is quiet while it waits. `act` throws what to say. */
export function form(fields, button, act) {
  const wrong = el("p", { class: "bad", role: "alert" });
  const go = el("button", { type: "submit", class: "go" }, button);
  const node = el("form", { novalidate: "", submit: async (event) => {
    event.preventDefault();
    say(wrong, "");
    const empty = fields.find(({ input }) => input.required && !input.value);
    if (empty) { say(wrong, `▲ ${empty.node.firstChild.textContent} is missing.`); empty.input.focus(); return; }
    go.disabled = true;
    try { await act(); } catch (error) { say(wrong, `▲ ${sentence(error.message)}`); (fields.find(({ input }) => input.required && !input.value) ?? fields[0]).input.focus(); } finally { go.disabled = false; }
  } }, ...fields.map((one) => one.node), wrong, go);
  return node;
}

export function sentence(words) {
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

export function loginView(main) {
  status.none();
  const name = field("Name", { type: "text", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: "" });
  const password = field("Password", { type: "password", autocomplete: "current-password", required: "" });
  main.replaceChildren(el("div", { class: "narrow" }, el("h1", {}, "Log in"),
    form([name, password], "Log in", async () => {
      const given = password.input.value;
      password.input.value = "";
      await send("POST", "/api/v1/login", { name: name.input.value.trim(), password: given });
      await welcome();
    }),
    el("p", { class: "quiet" }, "Whoever runs this server makes users in Settings, or with ", el("code", {}, "forebay-server user add"), ".")));
  name.input.focus();
}

export function setupView(main, secret) {
  status.none();
  // The link is not left in the history, where the next one at this screen would find it.
  history.replaceState(null, "", "#/setup");
  const name = field("Name", { type: "text", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: "" }, "Letters, digits, and . _ - @");
  const password = field("Password", { type: "password", autocomplete: "new-password", required: "" }, "10 characters at least; a few words make a good one");
  const again = field("Once more", { type: "password", autocomplete: "new-password", required: "" });
  main.replaceChildren(el("div", { class: "narrow" }, el("h1", {}, "The first user"),
    el("p", {}, "An admin, who makes the others. From then on everybody logs in."),
    form([name, password, again], "Make the user", async () => {
      if (password.input.value !== again.input.value) throw new Error("The two passwords are not the same.");
      await send("POST", "/api/v1/setup", { secret: secret ?? "", name: name.input.value.trim(), password: password.input.value });
      await welcome();
    })));
  name.input.focus();
}

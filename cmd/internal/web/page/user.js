function showUser(sentences) {
  byId("user-reply").replaceChildren(...sentences.map((sentence) => html("p", {}, sentence)));
}

// userSentences says in sentences what a user waits for.
function userSentences(u) {
  const owner = u.owner === "" ? "whose owner did not reply" : `owned by ${u.owner} (${u.phase}), ${u.cached ? "cached" : "not cached"}`;
  return [`User ${u.user_id}: partition ${u.partition}, ${owner}.`, ...u.explained];
}

byId("user-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  showUser(["Asking…"]);
  try {
    const response = await fetch(`users/${byId("user-id").value}`);
    const reply = await response.json();
    showUser(reply.error ? [`No reply: ${reply.error}.`] : userSentences(reply));
  } catch (error) {
    showUser([`No reply: ${error.message}.`]);
  }
});

// Token, enrolment, visit, and the visit read back. Address, client, secret, study and site come from the command line.
import createClient from "openapi-fetch";
import type { components, paths } from "./registry.js";

const [baseUrl = "", client_id = "", client_secret = "", study = "", site = ""] = process.argv.slice(2);
const registry = createClient<paths>({ baseUrl });

/** What was answered, or the registry's problem document thrown. */
function told<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

const token = await registry.POST("/v1/auth/token", {
  body: { grant_type: "client_credentials", client_id, client_secret },
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
registry.use({
  onRequest({ request }) {
    request.headers.set("Authorization", `Bearer ${told(token).access_token}`);
    return request;
  },
});

const enrolment: components["schemas"]["ParticipantCreate"] = {
  study,
  site,
  site_local_id: "TS-1",
  age_at_consent: 41,
  sex: "F",
  screened_on: "2025-01-02",
  enrolled_on: "2025-01-20",
  eligibility: { met: true },
  consent: { version: "1", given_on: "2025-01-02", scopes: ["main"] },
};
const person = told(
  await registry.POST("/v1/participants", {
    params: { header: { "Idempotency-Key": crypto.randomUUID() } },
    body: enrolment,
  }),
);
if (!("pid" in person)) throw new Error("a dry run was answered");

const key = crypto.randomUUID(); // drawn when the person acts, the same for each try
const visit = () =>
  registry.POST("/v1/visits", {
    params: { header: { "Idempotency-Key": key } },
    body: {
      participant: person.pid,
      visit_code: "BL",
      occurred_on: "2025-01-25",
      status: "completed",
      outcomes: [{ instrument: "SHEEHAN_SDS", items: { SDS_01: 7, SDS_02: 8, SDS_03: 6 } }],
    },
  });
const made = told(await visit());
const again = await visit();
if (!("id" in made) || again.response.headers.get("Idempotent-Replayed") !== "true") throw new Error("not replayed");

const read = told(await registry.GET("/v1/visits/{visit_id}", { params: { path: { visit_id: made.id } } }));
const total = read.outcomes[0]?.scores[0]?.value;
if (total !== 21) throw new Error(`the score is ${total}`);

const refused = await registry.GET("/v1/visits/{visit_id}", {
  params: { path: { visit_id: "00000000-0000-4000-8000-000000000000" } },
});
if (refused.error?.code !== "not_found") throw new Error("no problem document");
console.log(`TypeScript: visit ${read.id} of ${read.participant}, total ${total}`);

// A provider on loopback. Prints its issuer; tokens are for the audience and subject named on the command line.
import { OAuth2Server } from "oauth2-mock-server";

const [audience, subject] = process.argv.slice(2);
const server = new OAuth2Server();
await server.issuer.keys.generate("RS256");
await server.start(0, "127.0.0.1");
server.service.on("beforeTokenSigning", (token) => {
  token.payload.aud = audience;
  token.payload.sub = subject;
});
console.log(server.issuer.url);

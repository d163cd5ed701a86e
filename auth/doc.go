// Package auth makes a cell its own authority. It issues the tokens of vehicles, services and operators, verifies them
// offline, rotates its keys, revokes, and decides what each bearer may publish, subscribe to, receive and call.
//
// Guarantees:
//
//   - Verify makes no call outside the process. Keys, revocations and the key sets of external issuers are snapshots
//     in memory, backed by files in one directory, so a gateway that restarts without the centre, Redis and Kafka
//     still serves vehicles.
//   - A key accepts only the algorithm it was made for (RFC 8725, 3.1). A key identifier is only looked up in memory.
//     Nothing of a token is interpreted before its size, form and signature are checked.
//   - A revocation is on disk and in force before Revoke returns, and reaches the watchers of live connections at
//     once. Other processes on the same directory and other gateways on the same [RevocationStore] follow within two
//     polling intervals.
//   - What no grant allows is denied. One policy, [Permissions], decides on PUBLISH, SUBSCRIBE, wills, retained,
//     resumed and queued deliveries.
//   - No token, key or unverified claim is ever logged, audited or put into an error.
//
// The broker uses Verify, Permissions, Ended, Deadline and WatchEnded. The composition root opens the Authority and
// mounts its handlers by [EndpointScopes]. The command line issues, revokes and rotates on the same directory, also
// while a gateway runs on it.
//
// Only this package imports a JWT library.
package auth

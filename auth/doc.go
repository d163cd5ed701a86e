// Package auth makes a cell its own authority: it issues the tokens that vehicles, services and
// operators carry, verifies them offline, rotates its keys, revokes, and decides what each bearer may
// publish, subscribe to, receive and call.
//
// What it promises:
//
//   - Verify makes no call to anything outside the process. Keys, revocations and the key sets of
//     external issuers are snapshots in memory, backed by files in one directory, so that a restart with
//     the centre, Redis and Kafka gone still serves vehicles.
//   - A key accepts the one algorithm it was made for (RFC 8725, 3.1). A key identifier is only ever looked
//     up in memory. Nothing of a token is interpreted before its size, form and signature are checked.
//   - A revocation is on disk before Revoke returns, is refused from then on, and reaches the watchers of
//     live connections at once; other processes on the same directory and other gateways on the same
//     [RevocationStore] follow within two polling intervals.
//   - What no grant allows is denied. One policy, [Permissions], answers for PUBLISH, SUBSCRIBE, wills,
//     retained, resumed and queued deliveries alike.
//   - No token, key or unverified claim is ever logged, audited or put into an error.
//
// The broker uses Verify, Permissions, Ended, Deadline and WatchEnded; the composition root opens
// the Authority and mounts its handlers by [EndpointScopes]; the command line issues, revokes and rotates
// on the same directory, also while a gateway runs on it.
//
// Only this package imports a JWT library.
package auth

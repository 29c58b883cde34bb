// Package rpc sends requests over one channel of a connection, and receives their replies
// by direct reply-to.
//
// What it promises:
//
//   - Send returns when its context ends, also while the broker takes in no bytes.
//   - A request that no queue gets fails at once.
//   - A reply that nobody waits for is dropped.
//
// What it leaves to others: the connection, encoding, and deciding whether a request is sent
// again over another link.
package rpc

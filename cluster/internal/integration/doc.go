// Package integration has only tests: they run instances over a real broker and a real
// database, through what package cluster exports.
package integration

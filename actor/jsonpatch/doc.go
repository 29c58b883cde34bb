// Package jsonpatch applies JSON Patch (RFC 6902), addressed by JSON Pointer
// (RFC 6901), to decoded values.
//
// There are two reasons not to use an existing package. First, the wire contract has
// different error codes for a malformed patch, a patch that does not apply to the document,
// and a failed test, so an error must have a [Kind]. Second, service ids are 64-bit
// integers, so no value may be converted to JSON text or float64.
//
// # Values
//
// A document is a tree of
//
//	nil, bool, string,
//	int64, uint64, float64   numbers, compared by their exact value
//	[]byte                   binary data, never equal to a string
//	[]any                    an array
//	map[string]any           an object
//
// A value of any other type is a leaf. It is moved and copied unchanged, and compared with
// reflect.DeepEqual.
//
// # Promises
//
// Apply changes neither the document nor the patch. A patch applies as a whole or not at
// all. Apply copies only the containers that an operation changes. The result may share
// the other parts with the document and the patch, so all three are read-only afterwards.
// Apply never panics, and its cost never exceeds the [Limit]. An [Error] contains the
// operation and its pointer, but no value, because documents contain access tokens.
//
// The caller must check whether the result is a valid user.
package jsonpatch

// Package actor says what a user is and what can be done to one, and does it:
// it reads requests, decides what they make of a user, words the answers and
// the notifications, and runs an actor for each user that somebody writes to.
//
// An actor is a bounded mailbox and, while there is work in it, a goroutine. It
// serialises the writes to its user: the next one starts when the one before
// has been committed and answered, or has failed. Writes to different users run
// side by side. Reads pass no actor; they see what is committed.
//
// What a write does is a pure function of the user as stored ([Write.Decide]).
// The [Store] calls it inside the transaction that has the user's rows locked,
// so that it never decides on a user which another program has changed
// meanwhile.
//
// The package knows neither the broker nor SQL.
package actor

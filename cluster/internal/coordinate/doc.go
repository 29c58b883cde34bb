// Package coordinate runs the ownership core of an instance: it passes events to the core,
// and carries out the core's commands with the database and the present session.
package coordinate

// Package schema creates and updates the tables, and tells whether the tables of a
// database are those that this program works with.
package schema

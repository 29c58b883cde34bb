package archive

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// A Writer writes an archive. It is buffered; Flush and Close write the buffer.
type Writer struct {
	buffer  *bufio.Writer
	encoder *json.Encoder
	users   int64
}

// NewWriter begins an archive. It sets the format and the version of the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	a := Continue(w, 0)
	h.Format, h.Version = Format, Version
	return a, a.write(h)
}

// Continue continues an archive that has its first line and so many users.
func Continue(w io.Writer, users int64) *Writer {
	buffer := bufio.NewWriterSize(w, 256<<10)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	return &Writer{buffer: buffer, encoder: encoder, users: users}
}

// Add writes a user.
func (a *Writer) Add(u *User) error {
	a.users++
	return a.write(u)
}

// Users returns the number of users so far.
func (a *Writer) Users() int64 { return a.users }

// Flush writes the buffer. Afterwards the file ends with a complete line.
func (a *Writer) Flush() error {
	if err := a.buffer.Flush(); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

// Close writes the last line and the buffer.
func (a *Writer) Close() error {
	if err := a.write(End{End: true, Users: a.users}); err != nil {
		return err
	}
	return a.Flush()
}

func (a *Writer) write(line any) error {
	if err := a.encoder.Encode(line); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

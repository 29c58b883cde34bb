package archive

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// A Partial says how far an interrupted export had come.
type Partial struct {
	Header Header // not valid if Size is 0
	Size   int64  // of the complete lines, in bytes. The rest of the file is to be cut off
	Users  int64
	LastID int64 // of the last user; if there is none, Header.AfterID
	Ended  bool  // the archive is complete, and LastID is not valid
}

// Inspect reads an archive that a Writer has written completely or partly.
func Inspect(r io.Reader) (p Partial, err error) {
	from := bufio.NewReaderSize(r, 1<<20)
	var line, last []byte
	for n := 0; ; n++ {
		line = line[:0]
		for {
			part, err := from.ReadSlice('\n')
			line = append(line, part...)
			if err == nil {
				break
			}
			if err == io.EOF {
				return p, p.finish(last, int64(n))
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				return p, fmt.Errorf("reading the archive: %w", err)
			}
		}
		p.Size += int64(len(line))
		line, last = last, line[:len(line)-1]
		if n > 0 {
			continue
		}
		var ok bool
		if p.Header, ok = parseHeader(last); !ok || p.Header.Format != Format || p.Header.Version != Version {
			return p, errNotOurs
		}
	}
}

var errNotOurs = errors.New("the file is not what an export has written")

// finish evaluates the last complete line. There are so many complete lines.
func (p *Partial) finish(last []byte, lines int64) error {
	if lines == 0 {
		return nil
	}
	p.Users, p.LastID = lines-1, p.Header.AfterID
	if lines == 1 {
		return nil
	}
	if end, ok := parseEnd(last); ok {
		if p.Users, p.Ended = lines-2, true; end.Users != p.Users {
			return errNotOurs
		}
		return nil
	}
	var u lineUser // need not follow the rules of the service
	if decode(last, &u) != "" || u.ID == nil {
		return errNotOurs
	}
	p.LastID = *u.ID
	return nil
}

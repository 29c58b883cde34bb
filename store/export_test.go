package store

import "context"

// EmptyNextSlot is what is done every now and then.
func (s *Store) EmptyNextSlot(ctx context.Context) error { return s.emptyNextSlot(ctx) }

-- Each partition's notifications are read by id, a page at a time. id + 0 keeps
-- the planner from searching this index for an id alone.
CREATE INDEX ident_outbox_partition ON ident_outbox (partition, (id + 0));

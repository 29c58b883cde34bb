-- Which sequence of commits the numbers in this database belong to: package history says how that
-- is named. Any other text makes the next instance that connects continue all numbers with a gap,
-- as after a failover.
ALTER TABLE ident_cluster ADD COLUMN history text;

-- Positions of the log that were given before the database went back, or may have been: those
-- between after and before, both excluded. No change of this log has one.
CREATE TABLE ident_lost (
    partition int    NOT NULL,
    after     bigint NOT NULL,
    before    bigint NOT NULL,
    PRIMARY KEY (partition, before)
);

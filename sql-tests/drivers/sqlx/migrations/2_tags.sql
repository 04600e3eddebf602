ALTER TABLE x_item ADD COLUMN tags text[], ADD COLUMN doc jsonb, ADD COLUMN data bytea;

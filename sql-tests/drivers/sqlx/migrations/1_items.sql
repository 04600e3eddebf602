CREATE TABLE x_item (id uuid PRIMARY KEY, name text NOT NULL, price bigint NOT NULL DEFAULT 0);
CREATE INDEX x_item_name ON x_item (name);

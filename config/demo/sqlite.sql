-- The demo's tables on SQLite. The declared types of timestamps, dates and booleans tell wharf how to write them.

create table airlines (
  carrier text primary key,
  name    text not null
);

create table airports (
  faa   text primary key,
  name  text not null,
  lat   double precision not null,
  lon   double precision not null,
  alt   integer not null,
  tz    integer not null,
  dst   text not null,
  tzone text
);

create table planes (
  tailnum      text primary key,
  year         integer,
  type         text not null,
  manufacturer text not null,
  model        text not null,
  engines      integer not null,
  seats        integer not null,
  speed        integer,
  engine       text not null
);

-- No foreign keys from dest and tailnum: the source names four airports and some planes that it does not describe.
create table flights (
  id        integer primary key,
  day       date not null,
  scheduled timestamptz not null,
  carrier   text not null references airlines,
  flight    integer not null,
  tailnum   text,
  origin    text not null references airports,
  dest      text not null,
  dep_delay integer,
  arr_delay integer,
  air_time  integer,
  distance  integer not null,
  cancelled boolean not null
);

create table account (
  id      integer primary key,
  owner   text not null,
  balance integer not null check (balance >= 0)
);

create table note (
  id        integer primary key autoincrement,
  flight_id integer not null references flights,
  author    text not null,
  body      text not null,
  done      boolean not null default false
);

create index flights_by_route   on flights (origin, dest, id);
create index flights_by_day     on flights (day, id);
create index flights_by_carrier on flights (carrier, id);
create index planes_by_maker    on planes (manufacturer, tailnum);
create index note_by_flight     on note (flight_id, id);

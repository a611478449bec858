-- The demo's tables on PostgreSQL. Texts collate "C", by bytes as SQLite does, so that both databases sort alike.

create table airlines (
  carrier text collate "C" primary key,
  name    text collate "C" not null
);

create table airports (
  faa   text collate "C" primary key,
  name  text collate "C" not null,
  lat   double precision not null,
  lon   double precision not null,
  alt   integer not null,
  tz    integer not null,
  dst   text collate "C" not null,
  tzone text collate "C"
);

create table planes (
  tailnum      text collate "C" primary key,
  year         integer,
  type         text collate "C" not null,
  manufacturer text collate "C" not null,
  model        text collate "C" not null,
  engines      integer not null,
  seats        integer not null,
  speed        integer,
  engine       text collate "C" not null
);

-- No foreign keys from dest and tailnum: the source names four airports and some planes that it does not describe.
create table flights (
  id        integer primary key,
  day       date not null,
  scheduled timestamptz not null,
  carrier   text collate "C" not null references airlines,
  flight    integer not null,
  tailnum   text collate "C",
  origin    text collate "C" not null references airports,
  dest      text collate "C" not null,
  dep_delay integer,
  arr_delay integer,
  air_time  integer,
  distance  integer not null,
  cancelled boolean not null
);

create table account (
  id      integer primary key,
  owner   text collate "C" not null,
  balance bigint not null check (balance >= 0)
);

create table note (
  id        bigint generated always as identity primary key,
  flight_id integer not null references flights,
  author    text collate "C" not null,
  body      text collate "C" not null,
  done      boolean not null default false
);

create index flights_by_route   on flights (origin, dest, id);
create index flights_by_day     on flights (day, id);
create index flights_by_carrier on flights (carrier, id);
create index planes_by_maker    on planes (manufacturer, tailnum);
create index note_by_flight     on note (flight_id, id);

-- The demo's tables on MySQL and MariaDB. Texts compare by their characters' numbers, as SQLite's do, so that all databases sort alike.
-- A key needs a length, and the declared type `boolean` is `tinyint(1)`.

create table airlines (
  carrier varchar(2) primary key,
  name    varchar(100) not null
) character set utf8mb4 collate utf8mb4_bin;

create table airports (
  faa   varchar(3) primary key,
  name  varchar(100) not null,
  lat   double not null,
  lon   double not null,
  alt   integer not null,
  tz    integer not null,
  dst   varchar(1) not null,
  tzone varchar(40)
) character set utf8mb4 collate utf8mb4_bin;

create table planes (
  tailnum      varchar(6) primary key,
  year         integer,
  type         varchar(40) not null,
  manufacturer varchar(60) not null,
  model        varchar(40) not null,
  engines      integer not null,
  seats        integer not null,
  speed        integer,
  engine       varchar(20) not null
) character set utf8mb4 collate utf8mb4_bin;

-- No foreign keys from dest and tailnum: the source names four airports and some planes that it does not describe.
create table flights (
  id        integer primary key,
  day       date not null,
  scheduled timestamp not null default current_timestamp,
  carrier   varchar(2) not null,
  flight    integer not null,
  tailnum   varchar(6),
  origin    varchar(3) not null,
  dest      varchar(3) not null,
  dep_delay integer,
  arr_delay integer,
  air_time  integer,
  distance  integer not null,
  cancelled boolean not null,
  constraint flights_carrier_fkey foreign key (carrier) references airlines (carrier),
  constraint flights_origin_fkey foreign key (origin) references airports (faa)
) character set utf8mb4 collate utf8mb4_bin;

create table account (
  id      integer primary key,
  owner   varchar(100) not null,
  balance bigint not null,
  constraint account_balance_check check (balance >= 0)
) character set utf8mb4 collate utf8mb4_bin;

create table note (
  id        bigint auto_increment primary key,
  flight_id integer not null,
  author    varchar(40) not null,
  body      varchar(500) not null,
  done      boolean not null default false,
  constraint note_flight_id_fkey foreign key (flight_id) references flights (id)
) character set utf8mb4 collate utf8mb4_bin;

create index flights_by_route   on flights (origin, dest, id);
create index flights_by_day     on flights (day, id);
create index flights_by_carrier on flights (carrier, id);
create index planes_by_maker    on planes (manufacturer, tailnum);
create index note_by_flight     on note (flight_id, id);

-- Run once by the PostgreSQL image, when its volume is empty: a role and a database for each program, none may enter the other's.
CREATE ROLE dispatcher LOGIN PASSWORD '${DISPATCHER_DB_PASSWORD}';
CREATE ROLE operator LOGIN PASSWORD '${OPERATOR_DB_PASSWORD}';
CREATE DATABASE dispatcher OWNER dispatcher;
CREATE DATABASE operator OWNER operator;
REVOKE CONNECT ON DATABASE dispatcher FROM PUBLIC;
REVOKE CONNECT ON DATABASE operator FROM PUBLIC;

"""Writes python-service.sql, a database as the Python service left it, and
python-service.json, its users as get is to show them.

Run once, on Python 3.11 with cryptography 48.0.0, whose Fernet is the one that
the Python service used:

    python3 python-service.py

It takes no part in the tests. The tokens are new in each run.
"""

import json
import time

from cryptography.fernet import Fernet

KEY = "s3cretKeyOfThePythonServiceUsedInTestsOnly0="
YEAR = 365 * 24 * 3600
NOW = int(time.time())


def account(id, token, at=NOW):
    return {"id": id, "access_token": token, "at": at}


# The ids have gaps, where creates were rolled back and users deleted.
USERS = [
    {"id": 1, "name": "s3cret Ada Lovelace", "github": account(1, "s3cret-gh-1")},
    {"id": 2, "name": "s3cret Bob", "facebook": account(2, "s3cret-fb-2")},
    {"id": 3, "name": "s3cret Both", "picture_url": "https://secret.example/3.png",
     "github": account(3, "s3cret-gh-3"), "facebook": account(3, "s3cret-fb-3")},
    {"id": 5, "name": "s3cret Ève Ångström", "picture_url": "https://secret.example/é.png",
     "github": account(5, "s3cret-gh-é"), "email": "s3cret.ève@secret.example"},
    {"id": 6, "name": "s3cret 李小龍 🥋", "facebook": account(6, "s3cret-fb-漢字-🦊")},
    {"id": 7, "name": "", "picture_url": "", "github": account(7, "")},
    {"id": 8, "name": "s3cret Max", "github": account(2**31 - 1, "s3cret-gh-8"),
     "facebook": account(-2**31, "s3cret-fb-8")},
    {"id": 9, "name": "s3cret Old", "github": account(9, "s3cret-gh-9", NOW - 10 * YEAR)},
    {"id": 10, "name": "s3cret Clock ahead", "github": account(10, "s3cret-gh-10", NOW + 100 * YEAR)},
    {"id": 12, "name": "s3cret " + "Long " * 1000, "facebook": account(12, "s3cret-" * 1000),
     "picture_url": "https://secret.example/" + "x" * 3000},
    {"id": 13, "name": "s3cret O'Brien \\ \"Miles\"\n\t; --", "github": account(0, "s3cret-gh-13' \\")},
    {"id": 14, "name": "s3cret Case", "email": "S3CRET-14@Secret.Example", "github": account(14, "s3cret-gh-14")},
    {"id": 15, "name": "s3cret Case", "email": "s3cret-14@secret.example", "github": account(15, "s3cret-gh-14")},
    {"id": 20, "name": "s3cret Last", "github": account(20, "s3cret-gh-20"), "facebook": account(21, "s3cret-fb-20")},
]
LAST_ID = 23  # that the sequence gave out

HEADER = """\
-- A database as the Python service left it. The tables are the contract's; the
-- tokens were sealed by the Fernet of Python's cryptography 48.0.0 under the key
--     %s
-- How: python3 python-service.py, see there.

CREATE TYPE svc_type AS ENUM ('fb', 'gh');

CREATE TABLE users (
    id            serial PRIMARY KEY,
    name          varchar NOT NULL,
    picture_url   varchar,
    email_address varchar NOT NULL UNIQUE
);

CREATE TABLE services (
    user_id      int NOT NULL REFERENCES users (id),
    sv_id        int NOT NULL,
    sv_name      svc_type NOT NULL,
    access_token bytea NOT NULL,
    PRIMARY KEY (sv_name, user_id),
    UNIQUE (sv_id, sv_name)
);
"""


def literal(value):
    if value is None:
        return "NULL"
    return "'" + value.replace("'", "''") + "'"


def main():
    fernet = Fernet(KEY)
    with open("python-service.sql", "w") as sql:
        sql.write(HEADER % KEY)
        for user in USERS:
            user.setdefault("email", "s3cret-%d@secret.example" % user["id"])
            sql.write("\nINSERT INTO users (id, name, picture_url, email_address)\n    VALUES (%d, %s, %s, %s);\n" % (
                user["id"], literal(user["name"]), literal(user.get("picture_url")), literal(user["email"])))
            for service, short in (("github", "gh"), ("facebook", "fb")):
                if service in user:
                    a = user[service]
                    token = fernet.encrypt_at_time(a["access_token"].encode(), a.pop("at")).decode()
                    sql.write("INSERT INTO services (user_id, sv_id, sv_name, access_token)\n    VALUES (%d, %d, '%s', '%s');\n" % (
                        user["id"], a["id"], short, token))
        sql.write("\nSELECT setval('users_id_seq', %d);\n" % LAST_ID)
    with open("python-service.json", "w") as users:
        json.dump(USERS, users, indent=2, ensure_ascii=False)
        users.write("\n")


main()

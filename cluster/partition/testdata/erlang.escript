#!/usr/bin/env escript
%% Writes what Erlang itself says about the functions of this package, as the
%% tests' testdata: erlang.escript FOLDER. "go generate" runs it.
-mode(compile).

main([Folder]) ->
    write(Folder, "phash2.txt", [phash2(Key) || Key <- keys()]),
    write(Folder, "exs1024.txt", [exs1024(Seed) || Seed <- seeds()]),
    write(Folder, "buckets.txt", [buckets(Id) || Id <- ids()]),
    write(Folder, "every_seed.txt", every_seed()).

write(Folder, Name, Lines) ->
    ok = file:write_file(filename:join(Folder, Name), Lines).

%% A key in hexadecimal, and its hash.
phash2(Key) ->
    io_lib:format("~s ~b~n", [["x", binary:encode_hex(Key)], erlang:phash2(Key)]).

%% Three keys of each length up to 40 bytes, and of the longest that AMQP has.
keys() ->
    [<<>> | [list_to_binary([(Start + Step * N) rem 256 || N <- lists:seq(1, Length)])
             || Length <- lists:seq(1, 40) ++ [254, 255],
                {Start, Step} <- [{0, 1}, {250, 37}, {129, 201}]]].

%% A seed and the first 40 numbers that it gives, as the bits of the floats.
exs1024(Seed) ->
    {Floats, _} = lists:mapfoldl(fun(_, State) -> rand:uniform_s(State) end,
                                 seeded(Seed), lists:seq(1, 40)),
    io_lib:format("~b~s~n", [Seed, [io_lib:format(" ~16.16.0b", [Bits])
                                    || Float <- Floats, <<Bits:64>> <= <<Float/float>>]]).

seeds() ->
    [0, 1, 2, 1 bsl 21 - 1, 1 bsl 21, 1 bsl 27 - 1, 123456, 87654321].

%% A user id, and its bucket among each of several numbers of them.
buckets(Id) ->
    Jumps = jumps(erlang:phash2(integer_to_binary(Id))),
    io_lib:format("~b~s~n", [Id, [io_lib:format(" ~b", [B]) || B <- last_below(Jumps)]]).

ids() ->
    [0, -1, -(1 bsl 63), 1 bsl 63 - 1] ++ lists:seq(1, 200) ++
        lists:append([[Power - 1, Power, Power * 7 + 3]
                      || N <- lists:seq(1, 18), Power <- [round_power(N)]]).

round_power(N) -> lists:foldl(fun(_, P) -> P * 10 end, 1, lists:seq(1, N)).

%% The SHA-256 of the buckets that follow from every seed there is: the generator
%% takes no more than 21 bits of one. Each bucket is two bytes, big-endian.
every_seed() ->
    Digest = lists:foldl(
               fun(Seed, Hash) ->
                       crypto:hash_update(Hash, << <<B:16>> || B <- last_below(jumps(Seed)) >>)
               end, crypto:hash_init(sha256), lists:seq(0, 1 bsl 21 - 1)),
    [string:lowercase(binary:encode_hex(crypto:hash_final(Digest))), "\n"].

%% The numbers of buckets that are asked about.
counts() -> [1, 2, 7, 64, 1000, 16384].

last_below(Jumps) ->
    [lists:max([B || B <- Jumps, B < Count]) || Count <- counts()].

%% Every bucket that the jump hash visits below the largest count.
jumps(Seed) -> jumps(0, seeded(Seed)).

jumps(B, State0) ->
    {R, State} = rand:uniform_s(State0),
    case trunc((B + 1) / R) of
        J when J < 16384 -> [B | jumps(J, State)];
        _ -> [B]
    end.

seeded(Seed) -> rand:seed_s(exs1024, {Seed, Seed, Seed}).

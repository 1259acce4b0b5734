--
-- PostgreSQL database dump
--

\restrict f3wrAi2RqneOCV8HyhcId3cGtTFL5QVFhhxJaREJMmJdpNtL31iS00kymwkWnET

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: studydirection; Type: TYPE; Schema: public; Owner: -
--

CREATE TYPE public.studydirection AS ENUM (
    'NOT_SET',
    'MINIMIZE',
    'MAXIMIZE'
);


--
-- Name: trialintermediatevaluetype; Type: TYPE; Schema: public; Owner: -
--

CREATE TYPE public.trialintermediatevaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG',
    'NAN'
);


--
-- Name: trialstate; Type: TYPE; Schema: public; Owner: -
--

CREATE TYPE public.trialstate AS ENUM (
    'RUNNING',
    'COMPLETE',
    'PRUNED',
    'FAIL',
    'WAITING'
);


--
-- Name: trialvaluetype; Type: TYPE; Schema: public; Owner: -
--

CREATE TYPE public.trialvaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG'
);


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


--
-- Name: studies; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.studies (
    study_id integer NOT NULL,
    study_name character varying(512) NOT NULL
);


--
-- Name: studies_study_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.studies_study_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: studies_study_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.studies_study_id_seq OWNED BY public.studies.study_id;


--
-- Name: study_directions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.study_directions (
    study_direction_id integer NOT NULL,
    direction public.studydirection NOT NULL,
    study_id integer NOT NULL,
    objective integer NOT NULL
);


--
-- Name: study_directions_study_direction_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.study_directions_study_direction_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: study_directions_study_direction_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.study_directions_study_direction_id_seq OWNED BY public.study_directions.study_direction_id;


--
-- Name: study_system_attributes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.study_system_attributes (
    study_system_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);


--
-- Name: study_system_attributes_study_system_attribute_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.study_system_attributes_study_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: study_system_attributes_study_system_attribute_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.study_system_attributes_study_system_attribute_id_seq OWNED BY public.study_system_attributes.study_system_attribute_id;


--
-- Name: study_user_attributes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.study_user_attributes (
    study_user_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);


--
-- Name: study_user_attributes_study_user_attribute_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.study_user_attributes_study_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: study_user_attributes_study_user_attribute_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.study_user_attributes_study_user_attribute_id_seq OWNED BY public.study_user_attributes.study_user_attribute_id;


--
-- Name: trial_heartbeats; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trial_heartbeats (
    trial_heartbeat_id integer NOT NULL,
    trial_id integer NOT NULL,
    heartbeat timestamp without time zone NOT NULL
);


--
-- Name: trial_heartbeats_trial_heartbeat_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trial_heartbeats_trial_heartbeat_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq OWNED BY public.trial_heartbeats.trial_heartbeat_id;


--
-- Name: trial_intermediate_values; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trial_intermediate_values (
    trial_intermediate_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    step integer NOT NULL,
    intermediate_value double precision,
    intermediate_value_type public.trialintermediatevaluetype NOT NULL
);


--
-- Name: trial_intermediate_values_trial_intermediate_value_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trial_intermediate_values_trial_intermediate_value_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq OWNED BY public.trial_intermediate_values.trial_intermediate_value_id;


--
-- Name: trial_params; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trial_params (
    param_id integer NOT NULL,
    trial_id integer,
    param_name character varying(512),
    param_value double precision,
    distribution_json text
);


--
-- Name: trial_params_param_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trial_params_param_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trial_params_param_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trial_params_param_id_seq OWNED BY public.trial_params.param_id;


--
-- Name: trial_system_attributes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trial_system_attributes (
    trial_system_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);


--
-- Name: trial_system_attributes_trial_system_attribute_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trial_system_attributes_trial_system_attribute_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq OWNED BY public.trial_system_attributes.trial_system_attribute_id;


--
-- Name: trial_user_attributes; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trial_user_attributes (
    trial_user_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);


--
-- Name: trial_user_attributes_trial_user_attribute_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trial_user_attributes_trial_user_attribute_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq OWNED BY public.trial_user_attributes.trial_user_attribute_id;


--
-- Name: trial_values; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trial_values (
    trial_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    objective integer NOT NULL,
    value double precision,
    value_type public.trialvaluetype NOT NULL
);


--
-- Name: trial_values_trial_value_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trial_values_trial_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trial_values_trial_value_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trial_values_trial_value_id_seq OWNED BY public.trial_values.trial_value_id;


--
-- Name: trials; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.trials (
    trial_id integer NOT NULL,
    number integer,
    study_id integer,
    state public.trialstate NOT NULL,
    datetime_start timestamp without time zone,
    datetime_complete timestamp without time zone
);


--
-- Name: trials_trial_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.trials_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: trials_trial_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.trials_trial_id_seq OWNED BY public.trials.trial_id;


--
-- Name: version_info; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.version_info (
    version_info_id integer NOT NULL,
    schema_version integer,
    library_version character varying(256),
    CONSTRAINT version_info_version_info_id_check CHECK ((version_info_id = 1))
);


--
-- Name: studies study_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.studies ALTER COLUMN study_id SET DEFAULT nextval('public.studies_study_id_seq'::regclass);


--
-- Name: study_directions study_direction_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_directions ALTER COLUMN study_direction_id SET DEFAULT nextval('public.study_directions_study_direction_id_seq'::regclass);


--
-- Name: study_system_attributes study_system_attribute_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_system_attributes ALTER COLUMN study_system_attribute_id SET DEFAULT nextval('public.study_system_attributes_study_system_attribute_id_seq'::regclass);


--
-- Name: study_user_attributes study_user_attribute_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_user_attributes ALTER COLUMN study_user_attribute_id SET DEFAULT nextval('public.study_user_attributes_study_user_attribute_id_seq'::regclass);


--
-- Name: trial_heartbeats trial_heartbeat_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_heartbeats ALTER COLUMN trial_heartbeat_id SET DEFAULT nextval('public.trial_heartbeats_trial_heartbeat_id_seq'::regclass);


--
-- Name: trial_intermediate_values trial_intermediate_value_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_intermediate_values ALTER COLUMN trial_intermediate_value_id SET DEFAULT nextval('public.trial_intermediate_values_trial_intermediate_value_id_seq'::regclass);


--
-- Name: trial_params param_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_params ALTER COLUMN param_id SET DEFAULT nextval('public.trial_params_param_id_seq'::regclass);


--
-- Name: trial_system_attributes trial_system_attribute_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_system_attributes ALTER COLUMN trial_system_attribute_id SET DEFAULT nextval('public.trial_system_attributes_trial_system_attribute_id_seq'::regclass);


--
-- Name: trial_user_attributes trial_user_attribute_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_user_attributes ALTER COLUMN trial_user_attribute_id SET DEFAULT nextval('public.trial_user_attributes_trial_user_attribute_id_seq'::regclass);


--
-- Name: trial_values trial_value_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_values ALTER COLUMN trial_value_id SET DEFAULT nextval('public.trial_values_trial_value_id_seq'::regclass);


--
-- Name: trials trial_id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trials ALTER COLUMN trial_id SET DEFAULT nextval('public.trials_trial_id_seq'::regclass);


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version VALUES ('v3.2.0.a');


--
-- Data for Name: studies; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.studies VALUES (1, 'postgres');


--
-- Data for Name: study_directions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.study_directions VALUES (1, 'MAXIMIZE', 1, 0);


--
-- Data for Name: study_system_attributes; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.study_system_attributes VALUES (1, 1, 'evomerge:lease', '""');


--
-- Data for Name: study_user_attributes; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.study_user_attributes VALUES (1, 1, 'evomerge', '{"format": 1, "experiment": {"models": {"base": "/work/wt/study/experiments/zoo/base", "add": "/work/wt/study/experiments/zoo/add", "sort": "/work/wt/study/experiments/zoo/sort"}, "sources": {"base": "fc40b21ec842ca9ee0b192344361994c", "add": "7185475daba516dce1cce65c6190b451", "sort": "8ab25c881d265a011fec6d5d8dc98f0a"}, "recipe": {"merge_method": {"choice": ["task_arithmetic", "dare_ties"]}, "base_model": "base", "models": [{"model": "add", "parameters": {"weight": {"float": [0, 1.5], "init": 0.5}, "density": {"float": [0.2, 1]}}}, {"model": "sort", "parameters": {"weight": {"float": [0, 1.5], "init": 0.5}, "density": {"float": [0.2, 1]}}}], "dtype": "bfloat16"}, "fitness": {"tasks": [{"task": "zoo_add", "metric": null, "filter": null, "weight": 1.0, "direction": null, "num_fewshot": null, "transform": "none"}, {"task": "zoo_sort", "metric": null, "filter": null, "weight": 0.5, "direction": null, "num_fewshot": null, "transform": "none"}], "include_path": "fit", "splits": {"search": 12, "validation": 8, "test": 8, "seed": 0}, "batch_size": 32, "max_gen_toks": null, "limit": null, "trust_remote_code": false}, "search": {"sampler": "cma_es", "trials": 11, "population": 4, "sigma": 0.25, "seed": 5, "restarts": null, "top_k": 2}, "workers": {"dtype": "float32"}}, "versions": {"cma": "4.5.0", "numpy": "2.4.6", "optuna": "5.0.0", "torch": "2.13.0+cpu", "lm_eval": "0.4.13", "evomerge": "0.1.0"}}');
INSERT INTO public.study_user_attributes VALUES (2, 1, 'items:60b82fac99355860', '"[\"6a92b224831e955a\",\"76942411a008232b\",\"bad771f82c1d4ba8\",\"54f090eff2238f8f\",\"f36b03775ffda79e\",\"0ec67a121f1a737b\",\"e627abf52c84d0c7\",\"ad792987ee9d3713\",\"005b106978848784\",\"c6ccf6f63df5fbb5\",\"6efefb59bbe29780\",\"f915976995fc3156\"]"');
INSERT INTO public.study_user_attributes VALUES (3, 1, 'items:6445862a36e4ba02', '"[\"bc8848eb93938077\",\"e565209cc888189f\",\"38ae4a00c7832fee\",\"c47c658440270f4b\",\"4f7567177fe56cd1\",\"7b2aa94ec9870143\",\"75e369d8f662454f\",\"cdbfce3e8f616d9f\",\"267cc6a10cee3803\",\"2e80cfc5e76021d1\",\"277004c29bba473e\",\"f2310587d6daa83a\"]"');
INSERT INTO public.study_user_attributes VALUES (4, 1, 'items:99e4d7eb13404c82', '"[\"0e31e3d6ccebc2f5\",\"550f158df17aa4d2\",\"063204547981ad19\",\"76c2de2e6712bc8b\",\"87164281969969db\",\"5796014774c0b346\",\"b3bc5ddb20407b89\",\"8064fbcd2771ad38\"]"');
INSERT INTO public.study_user_attributes VALUES (5, 1, 'items:8a046c605a2e345e', '"[\"059c0b26ce88bb74\",\"5940f1e05151d8db\",\"caabbc9648bd1abd\",\"318ed6c8b575debf\",\"ec1e600cc4483c83\",\"79b8fd01243400f4\",\"26dec9c3d0a2a428\",\"ef427bd6fc0279da\"]"');
INSERT INTO public.study_user_attributes VALUES (6, 1, 'validation/9', '"{\"scores\":{\"split\":\"validation\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"99e4d7eb13404c82\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"8a046c605a2e345e\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"1e646823d200375d7ab0a08b3a592aa1\"}"');
INSERT INTO public.study_user_attributes VALUES (7, 1, 'validation/13', '"{\"scores\":{\"split\":\"validation\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"99e4d7eb13404c82\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"8a046c605a2e345e\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"bc9485140a01a27d92ddc4bc386bacff\"}"');
INSERT INTO public.study_user_attributes VALUES (8, 1, 'items:f680e426de1aff31', '"[\"ddda192004e240d9\",\"40bf11bc75381b9c\",\"7eb83aec0a816311\",\"1f25abaea0c7639e\",\"c96c726ccb681014\",\"7ef1a83444020a3b\",\"ad638d88afb094e9\",\"20d73db379fd927d\"]"');
INSERT INTO public.study_user_attributes VALUES (9, 1, 'items:4b864d1b3bfe6271', '"[\"d2c26a1b501a212e\",\"31bf057528100f18\",\"87b7159707ae0cdd\",\"ecb60742a436a95f\",\"6372b6ab16031358\",\"96789d777b25994b\",\"20662b3f1262ef86\",\"84285b68ce17b93d\"]"');
INSERT INTO public.study_user_attributes VALUES (10, 1, 'test/0', '"{\"scores\":{\"split\":\"test\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.25,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"f680e426de1aff31\",\"values\":[1.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.5,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"4b864d1b3bfe6271\",\"values\":[1.0,1.0,0.0,0.0,1.0,1.0,0.0,0.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"79a4021c46f234595b6f0dfcf9b3ebc8\"}"');
INSERT INTO public.study_user_attributes VALUES (11, 1, 'test/1', '"{\"scores\":{\"split\":\"test\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"f680e426de1aff31\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.5,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"4b864d1b3bfe6271\",\"values\":[0.0,0.0,0.0,1.0,1.0,1.0,1.0,0.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"48ac393c4d8e0895755ce3c814b157d7\"}"');
INSERT INTO public.study_user_attributes VALUES (12, 1, 'test/2', '"{\"scores\":{\"split\":\"test\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.25,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"f680e426de1aff31\",\"values\":[1.0,0.0,0.0,0.0,1.0,0.0,0.0,0.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"4b864d1b3bfe6271\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"9348c8f1d46dbd4f5401067a3b2d05a4\"}"');
INSERT INTO public.study_user_attributes VALUES (13, 1, 'test/3', '"{\"scores\":{\"split\":\"test\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.75,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"f680e426de1aff31\",\"values\":[1.0,0.0,1.0,1.0,1.0,0.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"4b864d1b3bfe6271\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"1ddb10b167c983ffbbb024737e0537f7\"}"');
INSERT INTO public.study_user_attributes VALUES (14, 1, 'test/4', '"{\"scores\":{\"split\":\"test\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"f680e426de1aff31\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"4b864d1b3bfe6271\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"1bf7700059519962e2b284eca2ad5970\"}"');
INSERT INTO public.study_user_attributes VALUES (15, 1, 'test/9', '"{\"scores\":{\"split\":\"test\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"f680e426de1aff31\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"4b864d1b3bfe6271\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]},\"failure\":null,\"fingerprint\":\"1e646823d200375d7ab0a08b3a592aa1\"}"');


--
-- Data for Name: trial_heartbeats; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: trial_intermediate_values; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: trial_params; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.trial_params VALUES (1, 6, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (2, 6, 'add.weight', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (3, 6, 'add.density', 0.6000000000000001, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (4, 6, 'sort.weight', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (5, 6, 'sort.density', 0.6000000000000001, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (6, 7, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (7, 7, 'add.weight', 1, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (8, 7, 'add.density', 0.6000000000000001, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (9, 7, 'sort.weight', 0, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (10, 7, 'sort.density', 0.6000000000000001, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (11, 8, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (12, 8, 'add.weight', 0.054816990562270906, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (13, 8, 'add.density', 0.37026212182723967, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (14, 8, 'sort.weight', 0.7930362833105583, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (15, 8, 'sort.density', 0.4597255831643565, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (16, 9, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (17, 9, 'add.weight', 0.025268592980039174, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (18, 9, 'add.density', 0.7693330449395976, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (19, 9, 'sort.weight', 0.010979077684481718, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (20, 9, 'sort.density', 0.2081147597817629, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (21, 10, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (22, 10, 'add.weight', 0.8312414308559767, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (23, 10, 'add.density', 0.5403243184332873, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (24, 10, 'sort.weight', 0.6102583670328448, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (25, 10, 'sort.density', 0.7677615900573536, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (26, 11, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (27, 11, 'add.weight', 0.4709722538701666, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (28, 11, 'add.density', 0.7121029736437732, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (29, 11, 'sort.weight', 0.258446389000778, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (30, 11, 'sort.density', 0.5743155501629539, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (31, 12, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (32, 12, 'add.weight', 0.3385500524495414, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (33, 12, 'add.density', 0.707786852346775, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (34, 12, 'sort.weight', 0.2844611173655417, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (35, 12, 'sort.density', 0.5987241479827593, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (36, 13, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (37, 13, 'add.weight', 0.5124255893035863, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (38, 13, 'add.density', 0.6913510524224258, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (39, 13, 'sort.weight', 1.0690620609802497, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (40, 13, 'sort.density', 0.8199360706727774, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (41, 14, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (42, 14, 'add.weight', 1.0167435877388953, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (43, 14, 'add.density', 0.46686427944997794, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (44, 14, 'sort.weight', 0.7985054579526828, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (45, 14, 'sort.density', 0.7791989163074551, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (46, 15, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (47, 15, 'add.weight', 0.4567345650005283, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (48, 15, 'add.density', 0.4874324755190432, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (49, 15, 'sort.weight', 0.6543565945347289, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (50, 15, 'sort.density', 0.8645869900072805, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (51, 16, 'merge_method', 1, '{"name": "CategoricalDistribution", "attributes": {"choices": ["task_arithmetic", "dare_ties"]}}');
INSERT INTO public.trial_params VALUES (52, 16, 'add.weight', 0.6296950225137645, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (53, 16, 'add.density', 0.8309768572203284, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');
INSERT INTO public.trial_params VALUES (54, 16, 'sort.weight', 0.6461064112234125, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.5, "log": false}}');
INSERT INTO public.trial_params VALUES (55, 16, 'sort.density', 0.7182751656939841, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.2, "high": 1.0, "log": false}}');


--
-- Data for Name: trial_system_attributes; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: trial_user_attributes; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.trial_user_attributes VALUES (1, 1, 'evomerge', '{"kind":"baseline","name":"base","generation":-1,"index":0,"recipe":"6052a6b489f81fcf7ceedbb1954ffa2f","vector":[],"values":{},"failure":null,"fingerprint":"79a4021c46f234595b6f0dfcf9b3ebc8","seconds":{"materialize":6.183734891999848,"evaluate":0.10992826900110231},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (2, 1, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.16666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[0.0,0.0,0.0,1.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.3333333333333333,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,0.0,0.0,0.0,1.0,0.0,0.0,1.0,0.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (3, 2, 'evomerge', '{"kind":"baseline","name":"add","generation":-1,"index":1,"recipe":"8a82bd146935eb6e8492338d61f6c60a","vector":[],"values":{},"failure":null,"fingerprint":"48ac393c4d8e0895755ce3c814b157d7","seconds":{"materialize":0.010491048999028862,"evaluate":0.07008067400056461},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (4, 2, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.4166666666666667,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,0.0,0.0,0.0,1.0,0.0,1.0,1.0,0.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (5, 3, 'evomerge', '{"kind":"baseline","name":"sort","generation":-1,"index":2,"recipe":"aed1499a9719726e0248a70f5d82b657","vector":[],"values":{},"failure":null,"fingerprint":"9348c8f1d46dbd4f5401067a3b2d05a4","seconds":{"materialize":0.008197918999940157,"evaluate":0.06964804900053423},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (6, 3, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.3333333333333333,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[0.0,0.0,1.0,1.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (7, 4, 'evomerge', '{"kind":"baseline","name":"uniform","generation":-1,"index":3,"recipe":"843491986a71918e50c090095bd4b5fe","vector":[],"values":{},"failure":null,"fingerprint":"1ddb10b167c983ffbbb024737e0537f7","seconds":{"materialize":0.011386025998945115,"evaluate":0.07084260800002085},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (8, 4, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.75,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,0.0,1.0,0.0,0.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.8333333333333334,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (9, 5, 'evomerge', '{"kind":"baseline","name":"ties","generation":-1,"index":4,"recipe":"bb7f4a0010d1efa6cba12d47c90699d7","vector":[],"values":{},"failure":null,"fingerprint":"1bf7700059519962e2b284eca2ad5970","seconds":{"materialize":0.1553667289990699,"evaluate":0.06312989100115374},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (10, 5, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.9166666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (11, 6, 'evomerge', '{"kind":"candidate","name":"g0.0","generation":0,"index":0,"recipe":"3b5adb1e19c949c750a638b078c9fb88","vector":[1.0,0.3333333333333333,0.5,0.3333333333333333,0.5],"values":{"merge_method":"dare_ties","add.weight":0.5,"add.density":0.6000000000000001,"sort.weight":0.5,"sort.density":0.6000000000000001},"failure":null,"fingerprint":"b489dd8aca8beaeb2fc5004c34fc5fa8","seconds":{"materialize":0.09145867599909252,"evaluate":0.08995708700058458},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (12, 6, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.8333333333333334,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0,0.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.8333333333333334,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (13, 7, 'evomerge', '{"kind":"candidate","name":"g0.1","generation":0,"index":1,"recipe":"ad0794a2418807a6227e5327d898d852","vector":[1.0,0.6666666666666666,0.5,0.0,0.5],"values":{"merge_method":"dare_ties","add.weight":1.0,"add.density":0.6000000000000001,"sort.weight":0.0,"sort.density":0.6000000000000001},"failure":null,"fingerprint":"b02c3fc95d55a8a8fae33cf795dadab9","seconds":{"materialize":0.036066806000235374,"evaluate":0.08333792600024026},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (14, 7, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.4166666666666667,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,0.0,0.0,0.0,1.0,0.0,0.0,1.0,0.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (15, 8, 'evomerge', '{"kind":"candidate","name":"g0.2","generation":0,"index":2,"recipe":"8caf18e0fc726658508a2c37030e8282","vector":[1.0,0.03654466037484727,0.21282765228404954,0.5286908555403722,0.32465697895544565],"values":{"merge_method":"dare_ties","add.weight":0.054816990562270906,"add.density":0.37026212182723967,"sort.weight":0.7930362833105583,"sort.density":0.4597255831643565},"failure":null,"fingerprint":"eee529e811d2f84b6a5f2f5804f6e0bd","seconds":{"materialize":0.026109751999683795,"evaluate":0.08888752399980149},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (16, 8, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.3333333333333333,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[0.0,0.0,1.0,1.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (17, 9, 'evomerge', '{"kind":"candidate","name":"g0.3","generation":0,"index":3,"recipe":"7ab158de982475c1e782f127cd646621","vector":[1.0,0.01684572865335945,0.7116663061744969,0.007319385122987812,0.010143449727203583],"values":{"merge_method":"dare_ties","add.weight":0.025268592980039174,"add.density":0.7693330449395976,"sort.weight":0.010979077684481718,"sort.density":0.2081147597817629},"failure":null,"fingerprint":"eeb2d3d764b845031b259894d8b17f82","seconds":{"materialize":0.05250903600062884,"evaluate":0.07743750500048918},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (18, 9, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.16666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[0.0,0.0,0.0,1.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.3333333333333333,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,0.0,0.0,0.0,1.0,0.0,0.0,1.0,0.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (19, 10, 'evomerge', '{"kind":"candidate","name":"g1.0","generation":1,"index":0,"recipe":"da03f4e0adeabeaf0996e842db072b73","vector":[1.0,0.5541609539039845,0.42540539804160904,0.40683891135522987,0.709701987571692],"values":{"merge_method":"dare_ties","add.weight":0.8312414308559767,"add.density":0.5403243184332873,"sort.weight":0.6102583670328448,"sort.density":0.7677615900573536},"failure":null,"fingerprint":"1e646823d200375d7ab0a08b3a592aa1","seconds":{"materialize":0.062241784999059746,"evaluate":0.04401084399978572},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (20, 10, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (21, 11, 'evomerge', '{"kind":"candidate","name":"g1.1","generation":1,"index":1,"recipe":"c7b0abe57cb7e0a134779b2a62da7dec","vector":[1.0,0.3139815025801111,0.6401287170547165,0.1722975926671853,0.4678944377036923],"values":{"merge_method":"dare_ties","add.weight":0.4709722538701666,"add.density":0.7121029736437732,"sort.weight":0.258446389000778,"sort.density":0.5743155501629539},"failure":null,"fingerprint":"b85a1c397c291119472060756324ce1f","seconds":{"materialize":0.02378250699985074,"evaluate":0.042585569999573636},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (22, 11, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.6666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,0.0,1.0,0.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.6666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,1.0,0.0,0.0,1.0,1.0,1.0,1.0,1.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (23, 12, 'evomerge', '{"kind":"candidate","name":"g1.2","generation":1,"index":2,"recipe":"ecb00d663c9cd8db772d544a80cfc3dd","vector":[1.0,0.22570003496636093,0.6347335654334686,0.18964074491036115,0.4984051849784491],"values":{"merge_method":"dare_ties","add.weight":0.3385500524495414,"add.density":0.707786852346775,"sort.weight":0.2844611173655417,"sort.density":0.5987241479827593},"failure":null,"fingerprint":"88f827c5ff7359cab7a664a31cf8b535","seconds":{"materialize":0.02381218899972737,"evaluate":0.03942449399983161},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (24, 12, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.5,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,0.0,1.0,0.0,0.0,0.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":0.6666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[0.0,1.0,1.0,1.0,0.0,0.0,1.0,1.0,1.0,1.0,1.0,0.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (25, 13, 'evomerge', '{"kind":"candidate","name":"g1.3","generation":1,"index":3,"recipe":"cada90507fa4f5d0797299dddaecce0b","vector":[1.0,0.3416170595357242,0.6141888155280323,0.7127080406534998,0.7749200883409717],"values":{"merge_method":"dare_ties","add.weight":0.5124255893035863,"add.density":0.6913510524224258,"sort.weight":1.0690620609802497,"sort.density":0.8199360706727774},"failure":null,"fingerprint":"b0f991ac5eccd4a17cd4732d517712b2","seconds":{"materialize":0.043472853998537175,"evaluate":0.05129507600031502},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (26, 13, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.6666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,0.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (27, 14, 'evomerge', '{"kind":"candidate","name":"g2.0","generation":2,"index":0,"recipe":"10646ef252c369b0900d9cd761c1be39","vector":[1.0,0.6778290584925968,0.3335803493124724,0.5323369719684552,0.7239986453843188],"values":{"merge_method":"dare_ties","add.weight":1.0167435877388953,"add.density":0.46686427944997794,"sort.weight":0.7985054579526828,"sort.density":0.7791989163074551},"failure":null,"fingerprint":"bc9485140a01a27d92ddc4bc386bacff","seconds":{"materialize":0.021138553998753196,"evaluate":0.03701980900041235},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (28, 14, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.9166666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (29, 15, 'evomerge', '{"kind":"candidate","name":"g2.1","generation":2,"index":1,"recipe":"8835fc2b224f7f820a62144f67027a0b","vector":[1.0,0.3044897100003522,0.35929059439880395,0.43623772968981933,0.8307337375091006],"values":{"merge_method":"dare_ties","add.weight":0.4567345650005283,"add.density":0.4874324755190432,"sort.weight":0.6543565945347289,"sort.density":0.8645869900072805},"failure":null,"fingerprint":"62d40e0a032cb75031f49e768866663c","seconds":{"materialize":0.01572325999950408,"evaluate":0.03715526400083036},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (30, 15, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.6666666666666666,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,0.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');
INSERT INTO public.trial_user_attributes VALUES (31, 16, 'evomerge', '{"kind":"candidate","name":"g2.2","generation":2,"index":2,"recipe":"b82f6e4752d45df379b32789c98230e5","vector":[1.0,0.41979668167584305,0.7887210715254105,0.430737607482275,0.64784395711748],"values":{"merge_method":"dare_ties","add.weight":0.6296950225137645,"add.density":0.8309768572203284,"sort.weight":0.6461064112234125,"sort.density":0.7182751656939841},"failure":null,"fingerprint":"d20c6b265929906b3eb523d30119c95f","seconds":{"materialize":0.022701500000039232,"evaluate":0.058965561000150046},"cached_from":null,"attempts":1}');
INSERT INTO public.trial_user_attributes VALUES (32, 16, 'scores', '"{\"split\":\"search\",\"tasks\":[{\"task\":\"zoo_add\",\"metric\":\"exact_match\",\"value\":0.8333333333333334,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"60b82fac99355860\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,0.0,0.0,1.0],\"weights\":null},{\"task\":\"zoo_sort\",\"metric\":\"acc\",\"value\":1.0,\"higher_is_better\":true,\"aggregation\":\"mean\",\"items\":\"6445862a36e4ba02\",\"values\":[1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0],\"weights\":null}]}"');


--
-- Data for Name: trial_values; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.trial_values VALUES (1, 1, 0, 0.2222222222222222, 'FINITE');
INSERT INTO public.trial_values VALUES (2, 2, 0, 0.8055555555555555, 'FINITE');
INSERT INTO public.trial_values VALUES (3, 3, 0, 0.5555555555555555, 'FINITE');
INSERT INTO public.trial_values VALUES (4, 4, 0, 0.7777777777777778, 'FINITE');
INSERT INTO public.trial_values VALUES (5, 5, 0, 0.9722222222222222, 'FINITE');
INSERT INTO public.trial_values VALUES (6, 6, 0, 0.8333333333333334, 'FINITE');
INSERT INTO public.trial_values VALUES (7, 7, 0, 0.8055555555555555, 'FINITE');
INSERT INTO public.trial_values VALUES (8, 8, 0, 0.5555555555555555, 'FINITE');
INSERT INTO public.trial_values VALUES (9, 9, 0, 0.2222222222222222, 'FINITE');
INSERT INTO public.trial_values VALUES (10, 10, 0, 1, 'FINITE');
INSERT INTO public.trial_values VALUES (11, 11, 0, 0.6666666666666666, 'FINITE');
INSERT INTO public.trial_values VALUES (12, 12, 0, 0.5555555555555555, 'FINITE');
INSERT INTO public.trial_values VALUES (13, 13, 0, 0.7777777777777777, 'FINITE');
INSERT INTO public.trial_values VALUES (14, 14, 0, 0.9444444444444443, 'FINITE');
INSERT INTO public.trial_values VALUES (15, 15, 0, 0.7777777777777777, 'FINITE');
INSERT INTO public.trial_values VALUES (16, 16, 0, 0.888888888888889, 'FINITE');


--
-- Data for Name: trials; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.trials VALUES (1, 0, 1, 'COMPLETE', '2026-11-25 11:12:49.638608', '2026-11-25 11:12:49.638608');
INSERT INTO public.trials VALUES (2, 1, 1, 'COMPLETE', '2026-11-25 11:12:49.726558', '2026-11-25 11:12:49.726558');
INSERT INTO public.trials VALUES (3, 2, 1, 'COMPLETE', '2026-11-25 11:12:49.812765', '2026-11-25 11:12:49.812765');
INSERT INTO public.trials VALUES (4, 3, 1, 'COMPLETE', '2026-11-25 11:12:49.901741', '2026-11-25 11:12:49.901741');
INSERT INTO public.trials VALUES (5, 4, 1, 'COMPLETE', '2026-11-25 11:12:50.128458', '2026-11-25 11:12:50.128458');
INSERT INTO public.trials VALUES (6, 5, 1, 'COMPLETE', '2026-11-25 11:12:51.120495', '2026-11-25 11:12:51.120495');
INSERT INTO public.trials VALUES (7, 6, 1, 'COMPLETE', '2026-11-25 11:12:51.250776', '2026-11-25 11:12:51.250776');
INSERT INTO public.trials VALUES (8, 7, 1, 'COMPLETE', '2026-11-25 11:12:51.371121', '2026-11-25 11:12:51.371121');
INSERT INTO public.trials VALUES (9, 8, 1, 'COMPLETE', '2026-11-25 11:12:51.503618', '2026-11-25 11:12:51.503618');
INSERT INTO public.trials VALUES (10, 9, 1, 'COMPLETE', '2026-11-25 11:12:51.615806', '2026-11-25 11:12:51.615806');
INSERT INTO public.trials VALUES (11, 10, 1, 'COMPLETE', '2026-11-25 11:12:51.692503', '2026-11-25 11:12:51.692503');
INSERT INTO public.trials VALUES (12, 11, 1, 'COMPLETE', '2026-11-25 11:12:51.766116', '2026-11-25 11:12:51.766116');
INSERT INTO public.trials VALUES (13, 12, 1, 'COMPLETE', '2026-11-25 11:12:51.865412', '2026-11-25 11:12:51.865412');
INSERT INTO public.trials VALUES (14, 13, 1, 'COMPLETE', '2026-11-25 11:12:51.945246', '2026-11-25 11:12:51.945246');
INSERT INTO public.trials VALUES (15, 14, 1, 'COMPLETE', '2026-11-25 11:12:52.011426', '2026-11-25 11:12:52.011426');
INSERT INTO public.trials VALUES (16, 15, 1, 'COMPLETE', '2026-11-25 11:12:52.096075', '2026-11-25 11:12:52.096075');


--
-- Data for Name: version_info; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.version_info VALUES (1, 12, '5.0.0');


--
-- Name: studies_study_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.studies_study_id_seq', 1, true);


--
-- Name: study_directions_study_direction_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.study_directions_study_direction_id_seq', 1, true);


--
-- Name: study_system_attributes_study_system_attribute_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.study_system_attributes_study_system_attribute_id_seq', 1, true);


--
-- Name: study_user_attributes_study_user_attribute_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.study_user_attributes_study_user_attribute_id_seq', 15, true);


--
-- Name: trial_heartbeats_trial_heartbeat_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trial_heartbeats_trial_heartbeat_id_seq', 1, false);


--
-- Name: trial_intermediate_values_trial_intermediate_value_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trial_intermediate_values_trial_intermediate_value_id_seq', 1, false);


--
-- Name: trial_params_param_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trial_params_param_id_seq', 55, true);


--
-- Name: trial_system_attributes_trial_system_attribute_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trial_system_attributes_trial_system_attribute_id_seq', 1, false);


--
-- Name: trial_user_attributes_trial_user_attribute_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trial_user_attributes_trial_user_attribute_id_seq', 32, true);


--
-- Name: trial_values_trial_value_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trial_values_trial_value_id_seq', 16, true);


--
-- Name: trials_trial_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.trials_trial_id_seq', 16, true);


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: studies studies_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);


--
-- Name: study_directions study_directions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_pkey PRIMARY KEY (study_direction_id);


--
-- Name: study_directions study_directions_study_id_objective_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_objective_key UNIQUE (study_id, objective);


--
-- Name: study_system_attributes study_system_attributes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_pkey PRIMARY KEY (study_system_attribute_id);


--
-- Name: study_system_attributes study_system_attributes_study_id_key_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_key_key UNIQUE (study_id, key);


--
-- Name: study_user_attributes study_user_attributes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_pkey PRIMARY KEY (study_user_attribute_id);


--
-- Name: study_user_attributes study_user_attributes_study_id_key_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_key_key UNIQUE (study_id, key);


--
-- Name: trial_heartbeats trial_heartbeats_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_pkey PRIMARY KEY (trial_heartbeat_id);


--
-- Name: trial_heartbeats trial_heartbeats_trial_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_key UNIQUE (trial_id);


--
-- Name: trial_intermediate_values trial_intermediate_values_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_pkey PRIMARY KEY (trial_intermediate_value_id);


--
-- Name: trial_intermediate_values trial_intermediate_values_trial_id_step_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_step_key UNIQUE (trial_id, step);


--
-- Name: trial_params trial_params_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_pkey PRIMARY KEY (param_id);


--
-- Name: trial_params trial_params_trial_id_param_name_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_param_name_key UNIQUE (trial_id, param_name);


--
-- Name: trial_system_attributes trial_system_attributes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_pkey PRIMARY KEY (trial_system_attribute_id);


--
-- Name: trial_system_attributes trial_system_attributes_trial_id_key_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_key_key UNIQUE (trial_id, key);


--
-- Name: trial_user_attributes trial_user_attributes_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_pkey PRIMARY KEY (trial_user_attribute_id);


--
-- Name: trial_user_attributes trial_user_attributes_trial_id_key_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_key_key UNIQUE (trial_id, key);


--
-- Name: trial_values trial_values_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_pkey PRIMARY KEY (trial_value_id);


--
-- Name: trial_values trial_values_trial_id_objective_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_objective_key UNIQUE (trial_id, objective);


--
-- Name: trials trials_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (trial_id);


--
-- Name: version_info version_info_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.version_info
    ADD CONSTRAINT version_info_pkey PRIMARY KEY (version_info_id);


--
-- Name: ix_studies_study_name; Type: INDEX; Schema: public; Owner: -
--

CREATE UNIQUE INDEX ix_studies_study_name ON public.studies USING btree (study_name);


--
-- Name: ix_trials_study_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_trials_study_id ON public.trials USING btree (study_id);


--
-- Name: study_directions study_directions_study_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);


--
-- Name: study_system_attributes study_system_attributes_study_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);


--
-- Name: study_user_attributes study_user_attributes_study_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);


--
-- Name: trial_heartbeats trial_heartbeats_trial_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);


--
-- Name: trial_intermediate_values trial_intermediate_values_trial_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);


--
-- Name: trial_params trial_params_trial_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);


--
-- Name: trial_system_attributes trial_system_attributes_trial_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);


--
-- Name: trial_user_attributes trial_user_attributes_trial_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);


--
-- Name: trial_values trial_values_trial_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);


--
-- Name: trials trials_study_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);


--
-- PostgreSQL database dump complete
--

\unrestrict f3wrAi2RqneOCV8HyhcId3cGtTFL5QVFhhxJaREJMmJdpNtL31iS00kymwkWnET


//! Pure: the path of a request in the one form that is matched and authorised.
//! Never: a decision about the request.

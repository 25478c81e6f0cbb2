variable "name" {
  description = "What it is called; of a second hub the first's name and `-2`."
  type        = string
}

variable "region" {
  description = "Its region, which is in the role's name."
  type        = string
}

variable "image_id" {
  description = "Its AMI."
  type        = string
}

variable "instance_type" {
  description = "Its size."
  type        = string
}

variable "subnet_id" {
  description = "The public subnet of its interface."
  type        = string
}

variable "zone" {
  description = "The availability zone of that subnet."
  type        = string
}

variable "security_group_id" {
  description = "Its security group."
  type        = string
}

variable "documents" {
  description = "Its role's policies, who may have that role, and its config file, as the module of the documents makes them."
  type        = object({ policies = map(string), trust = string, config = string })
}

variable "alarm_topic_arn" {
  description = "The SNS topic that is told when the instance fails its status checks; empty: nobody."
  type        = string
}
